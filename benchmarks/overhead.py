"""Overheads as ratios within one run: profiling, a policy that broadcasts nothing, and realised savings.

    python benchmarks/overhead.py [--repeats 15] [--out benchmarks/results/overhead.json]

Prints one JSON document:
- `plain_again`: time of plain generation over itself, the noise of the machine;
- `profiling`: time of profiled generation over plain generation (at most 1.5 is promised);
- `range_one`: time with a policy that never broadcasts over plain generation;
- `pab246`, `found`: measured speed-up, and the predicted one from the profile's site times.
"""

from pathlib import Path

import click
import torch
from measuring import paired_ratios, publish

import pabtune
from pabtune.models.shapes.prompts import sample_prompts
from pabtune.planning.costs.compute import predicted_seconds
from pabtune.planning.masks import resolve
from pabtune.planning.presets import PRESETS
from pabtune.planning.schedules import NoiseSchedule
from pabtune.records.policies import Policy
from pabtune.records.rules import Rule
from pabtune.runtime.recorder import Recorder, record
from pabtune.runtime.targets import Target
from pabtune.tuning.generation import Settings, generate

STEPS = 30
ROOT = Path(__file__).parent.parent


def measure(pipeline, prompts, repeats: int) -> dict[str, float]:
    """Time of each variant over that of plain generation."""
    settings = Settings(steps=STEPS)
    target = Target.of(pipeline)
    kinds = dict.fromkeys(site.kind for site in target.sites)
    range_one = Policy(name="range one", rules=tuple(Rule(kind=kind, range=1, window=(0, STEPS)) for kind in kinds))
    searched = Policy.load(ROOT / "policies" / "shapes-30steps.json")

    def profiled() -> float:
        recorder = Recorder(len(target.sites), torch.device("cpu"))
        return record(target, recorder, lambda: generate(pipeline, prompts, settings)).seconds

    def with_policy(policy: Policy) -> float:
        with pabtune.broadcast(pipeline, policy):
            return generate(pipeline, prompts, settings).seconds

    variants = {
        "plain_again": lambda: generate(pipeline, prompts, settings).seconds,
        "profiling": profiled,
        "range_one": lambda: with_policy(range_one),
        "pab246": lambda: with_policy(PRESETS["pab246"]),
        "found": lambda: with_policy(searched),
    }
    plain = variants["plain_again"]
    return paired_ratios({name: (variant, plain) for name, variant in variants.items()}, repeats)


def predicted(policy: Policy) -> float:
    """Predicted fraction of the transformer's time that remains under a policy, from the shipped profile."""
    profile = pabtune.Profile.load(ROOT / "profiles" / "shapes-30steps.json")
    schedule = NoiseSchedule(steps=profile.steps, sigmas=profile.made_for.sigmas)
    mask = resolve(policy, profile.sites, schedule)
    arrays = profile.arrays
    seconds = predicted_seconds(mask, arrays["seconds"], arrays["step_seconds"])
    return seconds / float(arrays["step_seconds"].sum())


@click.command()
@click.option("--repeats", type=click.IntRange(min=1), default=15, show_default=True)
@click.option("--out", type=click.Path(path_type=Path))
def main(repeats: int, out: Path | None) -> None:
    pipeline = pabtune.load_pipeline("shapes")
    ratios = measure(pipeline, sample_prompts(2, seed=9), repeats)
    searched = Policy.load(ROOT / "policies" / "shapes-30steps.json")
    document = {
        "time_over_plain_generation": {name: round(value, 4) for name, value in ratios.items()},
        "predicted_time_in_the_transformer": {
            "pab246": round(predicted(PRESETS["pab246"]), 4),
            "found": round(predicted(searched), 4),
        },
    }
    publish(document, repeats, "cpu", out)


if __name__ == "__main__":
    main()
