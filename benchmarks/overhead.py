"""Overheads as ratios within one run: profiling, a policy that broadcasts nothing, and realised savings.

    python benchmarks/overhead.py [--repeats 15] [--out benchmarks/results/overhead.json]

Prints one JSON document:
- `plain_again`: time of plain generation over itself, the noise of the machine;
- `profiling`: time of a profile over plain generation of its videos (at most 1.5 is promised): recording sites and whole
  calls, and one prompt of eight once more with a broken step;
- `profiling_sites`: the same without what is measured of whole calls;
- `range_one`: time with a policy that never broadcasts over plain generation;
- `pab246`, `found`: measured speed-up, and the predicted one from the profile's site times.
"""

import time
from functools import partial
from pathlib import Path

import click
import torch
from measuring import paired_ratios, publish

import pabtune
from pabtune.catalog import CATALOG
from pabtune.models.shapes.prompts import sample_prompts
from pabtune.planning.costs.profiled import cost_of_profile
from pabtune.planning.presets import PRESETS
from pabtune.records.interconnects import INTERCONNECTS
from pabtune.records.policies import Policy
from pabtune.records.rules import Rule
from pabtune.runtime.recorder import record
from pabtune.runtime.targets import Target
from pabtune.tuning.generation import BATCH_SIZE, Settings, batches, generate
from pabtune.tuning.sensitivity import PROMPTS_PER_PROBE, CallsRecorder, SensitivityTally

STEPS = 30
ROOT = Path(__file__).parent.parent


def measure(pipeline, prompts, repeats: int) -> dict[str, float]:
    """Time of each variant over that of plain generation."""
    settings = Settings(steps=STEPS)
    target = Target.of(pipeline)
    kinds = dict.fromkeys(site.kind for site in target.sites)
    range_one = Policy(name="range one", rules=tuple(Rule(kind=kind, range=1, window=(0, STEPS)) for kind in kinds))
    searched = Policy.load(ROOT / "policies" / "shapes-30steps.json")

    profiled_prompts = list(batches(sample_prompts(PROMPTS_PER_PROBE, seed=8), BATCH_SIZE))

    def plain_of_profile() -> float:
        return sum(generate(pipeline, batch, settings).seconds for batch in profiled_prompts)

    def profiled(has_sensitivity: bool) -> float:
        recorder, seconds = CallsRecorder(len(target.sites), torch.device("cpu")), 0.0
        sensitivity = SensitivityTally(pipeline, settings, CATALOG)
        for batch in profiled_prompts:
            run = sensitivity.observe(recorder) if has_sensitivity else settings
            generation = record(target, recorder, partial(generate, pipeline, batch, run))
            began = time.perf_counter()
            recorder.recording()
            seconds += generation.seconds + time.perf_counter() - began
            sensitivity.add(batch, recorder, generation)
        return seconds + sensitivity.seconds

    def with_policy(policy: Policy) -> float:
        with pabtune.broadcast(pipeline, policy):
            return generate(pipeline, prompts, settings).seconds

    variants = {
        "plain_again": lambda: generate(pipeline, prompts, settings).seconds,
        "range_one": lambda: with_policy(range_one),
        "pab246": lambda: with_policy(PRESETS["pab246"]),
        "found": lambda: with_policy(searched),
    }
    plain = variants["plain_again"]
    pairs = {name: (variant, plain) for name, variant in variants.items()}
    for name, has_sensitivity in (("profiling", True), ("profiling_sites", False)):
        pairs[name] = (partial(profiled, has_sensitivity), plain_of_profile)
    return paired_ratios(pairs, repeats)


def predicted(policy: Policy) -> float:
    """Predicted fraction of the transformer's time that remains under a policy, from the shipped profile."""
    profile = pabtune.Profile.load(ROOT / "profiles" / "shapes-30steps.json")
    return cost_of_profile(profile, policy, None, (1,), None, INTERCONNECTS["nvlink"]).predicted_time_fraction


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
