"""The shipped front beside what a person would try in an hour, on captions that no search saw.

    python benchmarks/front.py [--prompts 60] [--out benchmarks/results/front.json]

For each share of the compute: the policy of the front, as many denoising steps, every periodic schedule that computes no more
(`every:K`, held and extrapolated), and the presets. All take turns with the full run. The worst video of a few prompts is
mostly chance, so what is expected of the worst of 12 is computed from all of them. Prints one JSON document.
"""

from collections.abc import Sequence
from math import comb
from pathlib import Path
from typing import Any

import click
import numpy as np
from measuring import publish

import pabtune
from pabtune.models.shapes.prompts import sample_prompts
from pabtune.planning.presets import find_policy
from pabtune.records.evaluations import Evaluation
from pabtune.records.policies import Policy
from pabtune.records.prompts import Prompt

FRONT = Path(__file__).parent.parent / "policies" / "shapes-30steps-front"
STEPS, SAMPLE, SEED = 30, 1790, 300_000
SHARES = {0.63: 19, 0.50: 15, 0.40: 12, 0.33: 10, 0.30: 9, 0.25: 8}
"""Computed steps of the policies that run; 8 of 30 are .27."""

PERIODIC = [f"every:{gap}{payload}" for gap in (2, 3, 4, 5, 6) for payload in ("", ":linear", ":quadratic")]
PRESETS = ("pab246", "pab357", "pab579")
WORST_OF = 12


def expected_worst(values: Sequence[float], among: int = WORST_OF) -> float:
    """Expected least of so many values drawn without replacement: an average over all sets of them."""
    ordered, count = sorted(values), len(values)
    return sum(value * comb(count - 1 - rank, among - 1) for rank, value in enumerate(ordered)) / comb(count, among)


def row_of(evaluation: Evaluation) -> dict[str, Any]:
    """The figures of a policy."""
    return {
        "policy": evaluation.policy,
        "compute": round(evaluation.compute_fraction, 4),
        "time": round(1 / evaluation.speedup, 4),
        "psnr_db": round(float(np.mean(evaluation.psnr_db)), 2),
        "worst_of_12_db": round(expected_worst(evaluation.psnr_db), 2),
        "worst_db": round(min(evaluation.psnr_db), 2),
        "score_drop": round(float(np.mean(evaluation.drops)), 2),
    }


@click.command()
@click.option("--prompts", "count", type=click.IntRange(min=WORST_OF), default=60, show_default=True)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the document to this file too.")
def main(count: int, out: Path | None) -> None:
    """Measures all of them on captions to test with."""
    prompts = [
        Prompt(prompt=each.prompt, content=each.content, seed=SEED + index)
        for index, each in enumerate(sample_prompts(count, SAMPLE, "test"))
    ]
    front = {share: Policy.load(FRONT / f"shapes-30steps-{steps}of{STEPS}.json") for share, steps in SHARES.items()}
    fewer = [f"steps:{steps}" for steps in SHARES.values()]
    policies = [*front.values(), *(find_policy(name) for name in (*fewer, *PERIODIC, *PRESETS))]
    pipeline = pabtune.load_pipeline("shapes")
    rows = {row["policy"]: row for row in map(row_of, pabtune.evaluate(pipeline, policies, prompts, STEPS))}
    shares, own_names = {}, {policy.name for policy in front.values()}
    for share, policy in front.items():
        own = rows[policy.name]
        rivals = [
            row for row in rows.values() if row["policy"] not in own_names and row["compute"] <= own["compute"] + 0.005
        ]
        closest = max(rivals, key=lambda row: row["psnr_db"])
        shares[str(share)] = {"front": own, "closest_rival": closest}
    publish({"prompts": count, "steps": STEPS, "shares": shares, "policies": list(rows.values())}, 1, "cpu", out)


if __name__ == "__main__":
    main()
