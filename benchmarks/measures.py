"""Which measure sees which damage: does it fall with every grade?

Videos of the embedded model are damaged in grades (`pabtune/testing/damages.py`), made in fewer steps, and made with
outputs that are used for too long. Printed are the means per grade, the undamaged one first (of measures that grow with
the distance, the negative), whether they fall with every grade, and from which grade on they have fallen by more than
two standard errors:

    python benchmarks/measures.py --out out/measures

VBench's dimension without a network takes part where VBench is installed (`make test-vbench` does that). What cannot be
measured here is named with what it lacks.

`--out` gets a contact sheet per damage (undamaged first, then grade by grade) and the document, which is printed last.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from pabtune.cli.options import read_prompts
from pabtune.models.registry import load_pipeline
from pabtune.planning.presets import PRESETS, find_policy
from pabtune.quality.measures import EVERY
from pabtune.quality.scores import find_score
from pabtune.records.errors import BudgetError, MeasureError
from pabtune.records.files import save_json
from pabtune.records.policies import Policy
from pabtune.records.prompts import Prompt
from pabtune.records.rules import Rule
from pabtune.report.videos import contact_sheet, save_picture
from pabtune.runtime.engine import broadcast
from pabtune.testing.damages import DAMAGES
from pabtune.tuning.generation import Settings, Video, batches, generate
from pabtune.tuning.provenance import versions
from pabtune.vbench.environment import Environment

STEPS, BATCH = 30, 8
SHEET_FACTOR = 6
SHEET_PROMPTS = 3

FEWER_STEPS = (24, 20, 16, 12, 8, 6)
CLEARLY = 2.0
"""Standard errors that a mean must have fallen by to count as seen."""

CACHED_TOO_LONG = (2, 4, 8, 16)
"""Broadcast ranges of all attention and MLPs, between the second step and the last."""

Figure = Callable[[Sequence[Video], Sequence[Video], Sequence[str]], list[float]]
"""From videos, their references and their prompts to a figure of each; higher is better."""

OF_VBENCH = "temporal_flickering"
"""VBench's dimension that needs no weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grades:
    """Videos of one damage: per grade a video for each of the prompts; the first grade is undamaged."""

    amounts: tuple[float, ...]
    unit: str
    prompts: Sequence[Prompt]
    videos: Sequence[Sequence[Video]]


def every_range(length: int) -> Policy:
    kinds = ("spatial", "temporal", "cross", "mlp")
    rules = tuple(Rule(kind=kind, range=length, window=(1, STEPS)) for kind in kinds)  # type: ignore[arg-type]
    return Policy(name=f"cached for {length}", rules=rules)


def make(pipeline: Any, prompts: Sequence[Prompt], policy: Policy) -> list[Video]:
    """A video for each of the prompts, which are in the order of batches."""
    videos: list[Video] = []
    settings = Settings(steps=policy.steps or STEPS, batch_size=BATCH)
    for batch in batches(prompts, BATCH):
        with broadcast(pipeline, policy):
            videos += generate(pipeline, batch, settings).videos
    return videos


def damaged(references: Sequence[Video], prompts: Sequence[Prompt], name: str) -> Grades:
    damage = DAMAGES[name]
    chosen = [at for at, prompt in enumerate(prompts) if not (damage.needs_motion and prompt.content == "still")]
    others = [references[(at + len(references) // 2) % len(references)] for at in chosen]
    videos = [[references[at] for at in chosen]]
    for amount in damage.amounts:
        videos.append(
            [damage.apply(references[at], amount, other, at) for at, other in zip(chosen, others, strict=True)]
        )
    return Grades(
        amounts=damage.amounts, unit=damage.unit, prompts=[prompts[at] for at in chosen], videos=videos
    )  # fmt: skip


def all_grades(count: int) -> dict[str, Grades]:
    """Every damage of the videos of some prompts."""
    pipeline = load_pipeline("shapes")
    drawn = read_prompts("shapes", None, count, sample_seed=21, seed=3000)
    prompts = [prompt for batch in batches(drawn, BATCH) for prompt in batch]
    references = make(pipeline, prompts, PRESETS["none"])
    grades = {name: damaged(references, prompts, name) for name in DAMAGES}
    for name, unit, amounts, policy_of in (
        ("fewer steps", "steps", FEWER_STEPS, lambda amount: find_policy(f"steps:{amount}")),
        ("cached too long", "steps", CACHED_TOO_LONG, every_range),
    ):
        videos = [references, *(make(pipeline, prompts, policy_of(amount)) for amount in amounts)]
        grades[name] = Grades(amounts=amounts, unit=unit, prompts=prompts, videos=videos)
    return grades


def figures(vbench_home: Path) -> tuple[dict[str, Figure], dict[str, str]]:
    """Everything that is measured (of measures that grow with the distance, the negative), and what the others lack."""
    found: dict[str, Figure] = {}
    lacking: dict[str, str] = {}
    scores = {
        "shapes": find_score("shapes"),
        OF_VBENCH: find_score(f"vbench:{OF_VBENCH}", Environment(vbench_home.absolute())),
    }
    for name, score in scores.items():
        try:
            score.open([])
        except BudgetError as error:
            lacking[name] = str(error)
            continue
        found[name] = lambda videos, references, prompts, score=score: score.open(prompts)(videos, prompts)
    for name, measure in EVERY.items():
        try:
            compare, sign = measure.load(), 1 if measure.is_higher_better else -1
        except MeasureError as error:
            lacking[name] = str(error)
            continue
        found[name] = lambda videos, references, prompts, compare=compare, sign=sign: [
            sign * compare(video, reference) for video, reference in zip(videos, references, strict=True)
        ]
    return found, lacking


def falls(means: Sequence[float]) -> bool:
    """Whether each grade is worse than the one before."""
    return all(before > after for before, after in zip(means, means[1:], strict=False))


def values_of(grades: Grades, figure: Figure) -> NDArray[np.float64]:
    """Figures per grade and video, the undamaged grade first."""
    count = len(grades.videos)
    videos = [video for each in grades.videos for video in each]
    prompts = [prompt.prompt for prompt in grades.prompts]
    return np.array(figure(videos, [*grades.videos[0]] * count, prompts * count)).reshape(count, len(prompts))


def seen_from(grades: Grades, values: NDArray[np.float64]) -> float | None:
    """The least amount from which on the mean has fallen by more than its standard error, times `CLEARLY`."""
    drops = values[0] - values[1:]
    is_clear = drops.mean(1) > CLEARLY * drops.std(1, ddof=1) / drops.shape[1] ** 0.5
    unclear = np.flatnonzero(~is_clear)
    first = int(unclear[-1]) + 1 if len(unclear) else 0
    return grades.amounts[first] if first < len(grades.amounts) else None


def document_of(
    grades: dict[str, Grades], measures: dict[str, Figure], lacking: dict[str, str], prompts: int
) -> dict[str, Any]:
    """The benchmark's document: means per damage and measure, whether they fall, and from which amount on they have."""
    document: dict[str, Any] = {
        "prompts": prompts, "measures": list(measures), "not_measured": lacking, "damages": {}, "versions": versions(),
    }  # fmt: skip
    for name, each in grades.items():
        values = {measure: values_of(each, figure) for measure, figure in measures.items()}
        means = {measure: [float(mean) for mean in rows.mean(1)] for measure, rows in values.items()}
        document["damages"][name] = {
            "amounts": list(each.amounts),
            "unit": each.unit,
            "means": means,
            "falls": {measure: falls(row) for measure, row in means.items()},
            "seen_from": {measure: seen_from(each, rows) for measure, rows in values.items()},
        }
    return document


def print_table(document: dict[str, Any]) -> None:
    names = list(document["measures"])
    table = Table(title=f"{document['prompts']} videos: does the measure fall with every grade?")
    for column in ("damage", *names):
        table.add_column(column)
    for damage, row in document["damages"].items():
        cells = [
            ("falls " if row["falls"][name] else "DOES NOT FALL ")
            + " ".join(f"{mean:.3g}" for mean in row["means"][name])
            + ("" if row["seen_from"][name] is None else f"; seen from {row['seen_from'][name]:g}")
            for name in names
        ]
        table.add_row(f"{damage}\n{' '.join(f'{each:g}' for each in row['amounts'])} {row['unit']}", *cells)
    Console(stderr=True, width=220).print(table)
    for name, why in document["not_measured"].items():
        click.echo(f"{name}: not measured: {why}", err=True)


def save_sheets(folder: Path, grades: dict[str, Grades]) -> None:
    """A picture per damage: some prompts, each undamaged first, then grade by grade."""
    for name, each in grades.items():
        chosen = np.linspace(0, len(each.prompts) - 1, SHEET_PROMPTS).astype(int)
        rows = [videos[at] for at in chosen for videos in each.videos]
        save_picture(folder / f"{name.replace(' ', '-')}.png", contact_sheet(rows, SHEET_FACTOR))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=48)
    parser.add_argument("--out", type=Path, help="folder for the contact sheets and the document")
    parser.add_argument("--vbench-home", type=Path, default=Path("out/vbench"), help="folder of VBench's environment")
    options = parser.parse_args()
    measures, lacking = figures(options.vbench_home)
    grades = all_grades(options.prompts)
    document = document_of(grades, measures, lacking, options.prompts)
    print_table(document)
    if options.out is not None:
        save_sheets(options.out, grades)
        save_json(options.out / "measures.json", document)
    json.dump(document, sys.stdout, indent=2)
    click.echo()


if __name__ == "__main__":
    main()
