"""How often a verdict is wrong: false accepts and false rejects of simulated drops, for one policy and for a whole selection.

    python benchmarks/verdict.py [--json] [--out FILE]

Drops come in six shapes: normal, noisy, skewed (a tenth of the videos loses 10 points), heavy-tailed (Student's t with 3
degrees of freedom), 2 % of the videos lose 75 points, 1 % lose everything. A seventh, of which 5 % gain 20 points, shows where
a reject is wrong. Each is shifted to a mean drop of 0, a half, one, and one and a half of a budget of 1 point, and judged
after every prompt. Beside it stands what people would compute instead: Student's t, the percentile bootstrap, and Johnson's
bound, on 36 or 72 prompts; and what pabtune did before.

A selection simulates the whole way: 60 trials whose true mean drop is the budget itself, measured on 24 prompts; the 4 best
ones compared on 24 other prompts; the best one judged on fresh prompts. `five times` repeats that on the same fresh prompts,
with 60 more trials each, as who is not content with a result would. `before`: the best of 4 finalists by Johnson's bound on 72
prompts, corrected for finalists and looks, as pabtune did until it bet.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy import stats

from pabtune.quality.budget import Budget
from pabtune.quality.verdict import ERROR, broken_drop, first_verdict, look_error
from pabtune.records.files import save_json

Drops = NDArray[np.float64]
Draw = Callable[[np.random.Generator, int], Drops]

BUDGET = Budget(score="shapes", largest_drop=1.0)
MOST_PROMPTS, SELECTED_PROMPTS = 640, 24
TRIALS, FINALISTS, REPEATS = 60, 4, 5
MEANS = (0.0, 0.5, 1.0, 1.5)


def _few(share: float, loss: float) -> Draw:
    def draw(rng: np.random.Generator, count: int) -> Drops:
        return np.where(rng.random(count) < share, loss, 0.0) - share * loss + rng.normal(0, 0.3, count)

    return draw


SHAPES: Mapping[str, Draw] = {
    "normal": lambda rng, count: rng.normal(0, 1, count),
    "noisy": lambda rng, count: rng.normal(0, 3, count),
    "skewed": _few(0.1, 10.0),
    "heavy-tailed": lambda rng, count: np.clip(rng.standard_t(3, count), -98.0, 98.0),
    "2 % lose 75": _few(0.02, 75.0),
    "1 % lose all": _few(0.01, 98.0),
}
"""Drops around a mean of 0."""

RARE_GAINS: Mapping[str, Draw] = {"5 % gain 20": _few(0.05, -20.0)}
"""The same, of one policy alone: rejects trust the drops that they saw."""


def _johnson(drops: Drops, comparisons: int = 1) -> float:
    """Upper bound of the mean, corrected for skew: what pabtune judged by before."""
    count, deviation = len(drops), drops.std(ddof=1)
    centre = drops.mean() + stats.skew(drops) * deviation / (6 * count)
    return float(centre + stats.t.ppf(1 - 0.05 / comparisons, count - 1) * deviation / count**0.5)


def _student(drops: Drops) -> float:
    return float(drops.mean() + stats.t.ppf(0.95, len(drops) - 1) * stats.sem(drops))


def _bootstrap(drops: Drops) -> float:
    means = np.random.default_rng(0).choice(drops, (1000, len(drops))).mean(axis=1)
    return float(np.quantile(means, 0.95))


RIVALS: Mapping[str, tuple[Callable[[Drops], float], int]] = {
    "Student's t, 36": (_student, 36),
    "bootstrap, 36": (_bootstrap, 36),
    "Johnson, 36": (_johnson, 36),
    "Johnson, 72": (_johnson, 72),
}
"""Upper bounds that people compute on a fixed number of prompts."""


def _judged(drops: Drops, look: int = 1) -> tuple[str, int]:
    broken = (drops > broken_drop(BUDGET)).astype(float)
    return first_verdict(drops, broken, BUDGET, look_error(look))


def one_policy(rng: np.random.Generator, draw: Draw, mean: float, replicates: int) -> dict[str, Any]:
    """Rates of verdicts on a policy of a known mean drop, the prompts that they took, and accepts of the rivals."""
    verdicts, accepts = [], dict.fromkeys(RIVALS, 0)
    for _ in range(replicates):
        drops = draw(rng, MOST_PROMPTS) + mean
        verdicts.append(_judged(drops))
        for name, (bound, count) in RIVALS.items():
            accepts[name] += bound(drops[:count]) <= BUDGET.largest_drop
    prompts = [count for verdict, count in verdicts if verdict != "undecided"]
    return {
        **{name: np.mean([verdict == name for verdict, _ in verdicts]) for name in ("accept", "reject", "undecided")},
        "prompts": float(np.median(prompts)) if prompts else None,
        "rivals": {name: count / replicates for name, count in accepts.items()},
    }


def selection(rng: np.random.Generator, draw: Draw, mean: float, repeats: int) -> tuple[bool, bool]:
    """Whether a whole selection among policies of one true mean drop accepts: as pabtune judges, and as it judged before.

    A third of the drops belongs to the prompts, the same under all policies.
    """
    fresh, old = draw(rng, MOST_PROMPTS), draw(rng, 72)
    accepts = before = False
    for look in range(1, repeats + 1):
        trials = np.array([draw(rng, 2 * SELECTED_PROMPTS) for _ in range(TRIALS)])
        best = np.argsort(trials[:, :SELECTED_PROMPTS].mean(axis=1))[:FINALISTS]
        finalists = [draw(rng, MOST_PROMPTS) for _ in best]
        chosen = int(trials[best, SELECTED_PROMPTS:].mean(axis=1).argmin())
        accepts |= _judged(_mixed(finalists[chosen], fresh) + mean, look)[0] == "accept"
        bounds = [_johnson(_mixed(each[:72], old) + mean, FINALISTS * look) for each in finalists]
        before |= min(bounds) <= BUDGET.largest_drop
    return accepts, before


def _mixed(own: Drops, shared: Drops) -> Drops:
    """Drops of which a third belongs to the prompt: each prompt takes one of the two, so that their shape stays."""
    takes_shared = np.random.default_rng(len(own)).random(len(own)) < 1 / 3
    return np.where(takes_shared, shared, own)


def measure(replicates: int, selections: int, seed: int = 0) -> dict[str, Any]:
    """All rates, as JSON."""
    rng, rare = np.random.default_rng(seed), np.random.default_rng(seed + 1)
    single = {
        name: {str(mean): one_policy(each, draw, mean, replicates) for mean in MEANS}
        for shapes, each in ((SHAPES, rng), (RARE_GAINS, rare))
        for name, draw in shapes.items()
    }
    whole: dict[str, Any] = {}
    for name, draw in SHAPES.items():
        for label, repeats in (("once", 1), ("again", REPEATS)):
            found = [selection(rng, draw, BUDGET.largest_drop, repeats) for _ in range(selections)]
            ours, before = (float(np.mean(each)) for each in zip(*found, strict=True))
            whole.setdefault(name, {})[label] = {"false_accept": ours, "before": before}
    return {"budget": str(BUDGET), "error": ERROR, "replicates": replicates, "selections": selections,
            "most_prompts": MOST_PROMPTS, "policies": single, "selection": whole}  # fmt: skip


def show(document: Mapping[str, Any]) -> None:
    """Prints the rates as tables."""
    console = Console(stderr=True, width=150)
    table = Table(title=f"one policy, budget 1 point, at most {MOST_PROMPTS} prompts; accepts over 1.0 are false")
    for column in ("drops", "mean", "accept", "reject", "undecided", "prompts", *RIVALS):
        table.add_column(column, justify="left" if column == "drops" else "right")
    for name, means in document["policies"].items():
        for mean, row in means.items():
            rates = [f"{row[each]:.1%}" for each in ("accept", "reject", "undecided")]
            others = [f"{row['rivals'][each]:.1%}" for each in RIVALS]
            table.add_row(name, mean, *rates, f"{row['prompts']:.0f}" if row["prompts"] else "-", *others)
    console.print(table)
    table = Table(title="a whole selection among policies whose mean drop is the budget: false accepts")
    for column in ("drops", "once", "once, before", "five times", "five times, before"):
        table.add_column(column, justify="left" if column == "drops" else "right")
    for name, row in document["selection"].items():
        rates = [row[label][which] for label in ("once", "again") for which in ("false_accept", "before")]
        table.add_row(name, *(f"{rate:.1%}" for rate in rates))
    console.print(table)


@click.command(help=__doc__)
@click.option("--replicates", type=click.IntRange(min=1), default=2000, show_default=True, help="Of one policy.")
@click.option("--selections", type=click.IntRange(min=1), default=500, show_default=True, help="Whole selections.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.option("--out", type=click.Path(path_type=Path), help="File for the document.")
def command(replicates: int, selections: int, as_json: bool, out: Path | None) -> None:
    document = measure(replicates, selections)
    show(document)
    if out is not None:
        save_json(out, document)
    if as_json:
        click.echo(json.dumps(document))


if __name__ == "__main__":
    command()
