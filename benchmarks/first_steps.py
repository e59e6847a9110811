"""How often the first steps of a run tell its content class, beside how often the prompt does.

    python benchmarks/first_steps.py [--tested 300] [--out benchmarks/results/first-steps.json]

Both are fitted to the same captions of `shapes` and tried on others. Prints one JSON document.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from measuring import publish

import pabtune
from pabtune.cli.options import TUNED, VALIDATED, sample_split
from pabtune.records.policies import MadeFor, Policy
from pabtune.records.rules import Rule
from pabtune.tuning.classifying import fit_on_split
from pabtune.tuning.generation import Settings
from pabtune.tuning.telling import fit_first_steps

CONTENTS, STEPS, BATCH, SEED = ("still", "slow", "fast"), 30, 30, 1

WATCHED = (1, 2, 3)
"""Numbers of first steps: those that a policy computes before it broadcasts."""


@click.command()
@click.option("--tested", default=300, show_default=True, help="Captions to try on.")
@click.option("--out", type=click.Path(path_type=Path))
def main(tested: int, out: Path | None) -> None:
    pipeline, split = pabtune.load_pipeline("shapes"), sample_split(TUNED, VALIDATED, tested, SEED)
    rows: list[dict[str, Any]] = [{"told_by": "prompt", **asdict(fit_on_split(split, CONTENTS)[1])}]
    for steps in WATCHED:
        rule = Rule(kind="spatial", range=2, window=(steps, STEPS))
        policy = Policy(name="watched", rules=(rule,), made_for=MadeFor(steps=STEPS))
        settings = Settings(steps=STEPS, batch_size=BATCH)
        _, accuracy = fit_first_steps(pipeline, policy, split, CONTENTS, settings)
        rows.append({"told_by": f"{steps} of {STEPS} steps", **asdict(accuracy)})
    publish({"fitted_on": TUNED + VALIDATED, "rows": rows}, 1, "cpu", out)


if __name__ == "__main__":
    main()
