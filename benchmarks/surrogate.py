"""How well the surrogate ranks schedules of whole calls: its error against the PSNR of real videos.

Random schedules of 7 to 24 computed steps, factors fitted on one set of prompts, videos of another. Two surrogates: that of
the fitted prompts, with gains measured at four steps of each, and that of a profile of 24 other prompts:

    python benchmarks/surrogate.py --out benchmarks/results/surrogate.json
"""

import argparse
import json
from pathlib import Path

import click
import numpy as np
from scipy.stats import spearmanr

import pabtune
from pabtune.cli.options import read_prompts
from pabtune.models.registry import load_pipeline
from pabtune.quality.fidelity import psnr_db
from pabtune.records.policies import MadeFor
from pabtune.runtime.engine import broadcast
from pabtune.runtime.targets import Target
from pabtune.tuning.generation import Settings, generate
from pabtune.tuning.provenance import versions
from pabtune.tuning.schedules import fit, measure_gains
from pabtune.tuning.trajectories import record_trajectories, surrogate_of

STEPS, BATCH = 30, 4
PROMPTS = 24
"""Of the profile."""


def main() -> None:
    """Prints the rank correlation, and writes a row for each schedule."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--schedules", type=int, default=60)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    pipeline, settings = load_pipeline("shapes"), Settings(steps=STEPS, batch_size=BATCH)
    target = Target.of(pipeline)
    fitted_on = read_prompts("shapes", None, 2 * BATCH, sample_seed=11, seed=500)
    seen = [fitted_on[index : index + BATCH] for index in range(0, len(fitted_on), BATCH)]
    unseen = read_prompts("shapes", None, 2 * BATCH, sample_seed=12, seed=900)
    others = [unseen[index : index + BATCH] for index in range(0, len(unseen), BATCH)]
    references = [generate(pipeline, batch, settings).videos for batch in others]
    runs = [record_trajectories(pipeline, target, batch, settings) for batch in seen]
    surrogate = surrogate_of(runs, [measure_gains(pipeline, run, settings) for run in runs])
    profiled = read_prompts("shapes", None, PROMPTS, sample_seed=1, seed=0)
    profile = pabtune.profile(pipeline, profiled, STEPS, batch_size=BATCH)
    rng, rows = np.random.default_rng(0), []
    for _ in range(options.schedules):
        first, count = int(rng.integers(2, 5)), int(rng.integers(7, 25))
        inner = rng.choice(np.arange(first, STEPS - 1), size=count - first - 1, replace=False)
        computed = tuple(sorted({*range(first), *inner.tolist(), STEPS - 1}))
        schedule, _ = fit(pipeline, target, runs, settings, computed)
        psnrs = []
        with broadcast(pipeline, schedule.policy("schedule", MadeFor())):
            for batch, plain in zip(others, references, strict=True):
                videos = generate(pipeline, batch, settings).videos
                psnrs += [psnr_db(video, reference) for video, reference in zip(videos, plain, strict=True)]
        rows.append(
            {
                "computed": list(computed),
                "objective": surrogate.objective(computed),
                "objective_by_profile": pabtune.rank_schedules(profile, [computed])[0].objective,
                "psnr_db": float(np.mean(psnrs)),
                "worst_psnr_db": float(np.min(psnrs)),
            }
        )
        click.echo(f"{count:2} steps: objective {rows[-1]['objective']:.2f}, PSNR {rows[-1]['psnr_db']:.2f} dB")
    psnrs = [row["psnr_db"] for row in rows]
    correlation, by_profile = (
        float(-spearmanr([row[name] for row in rows], psnrs).statistic)
        for name in ("objective", "objective_by_profile")
    )
    click.echo(
        f"rank correlation with the mean PSNR of {len(unseen)} unseen videos, {len(rows)} schedules: {correlation:.3f}; by a "
        f"profile alone, which took {profile.overhead:.2f} times plain generation: {by_profile:.3f}"
    )
    if options.out:
        document = {
            "rank_correlation": correlation,
            "rank_correlation_by_profile": by_profile,
            "profile_overhead": profile.overhead,
            "schedules": rows,
            "versions": versions(),
        }
        options.out.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
