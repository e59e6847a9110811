"""Whether policies of each content class are faster than one for all, under one budget, with the class told by the prompt.

    python benchmarks/content.py --out benchmarks/results/content.json

takes nine minutes on a busy core.

From the shipped front (schedules of whole calls, from 7 to 24 of 30 steps) the fastest one is chosen that holds the budget on
captions to validate with: one for all classes, and one for each class, by the same rule (`choose`). Both are then judged on
captions to test with, in turns with the unaccelerated model, one caption in a call; the class of each call is told by its
caption. The classifier is fitted to as many captions as a search with --per-content has, and measured on 300 others.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from measuring import publish

from pabtune.cli.options import TUNED, VALIDATED, read_prompts, sample_split
from pabtune.models.registry import load_pipeline
from pabtune.quality.budget import Budget, drop_statistics
from pabtune.quality.verdict import look_error
from pabtune.records.evaluations import Evaluation
from pabtune.records.policies import Policy
from pabtune.records.prompts import Prompt
from pabtune.records.splits import Split
from pabtune.tuning.classifying import fit_on_split
from pabtune.tuning.evaluate import evaluate
from pabtune.tuning.judging import judgement_of
from pabtune.tuning.results import combine

FRONT = Path(__file__).parents[1] / "policies" / "shapes-30steps-front"
CONTENTS = ("still", "slow", "fast")
CLASSIFIED = 300
STEPS = 30


def choose(
    evaluations: Sequence[Evaluation], policies: Sequence[Policy], budget: Budget, contents: Sequence[str]
) -> Policy:
    """The policy that computes least among those whose mean drop is shown to be inside the budget in each of some classes.

    If none is, the one that computes most. A verdict asks the same: a class that is rejected rejects the policy.

    Args:
        evaluations: of the policies, on the same prompts.
        policies: to choose from.
        budget: on the score.
        contents: the classes.
    """
    holding = [
        (evaluation.compute_fraction, policy.name, policy)
        for evaluation, policy in zip(evaluations, policies, strict=True)
        if all(drop_statistics(drops_of(evaluation, each)).upper <= budget.largest_drop for each in contents)
    ]
    most = max(zip(evaluations, policies, strict=True), key=lambda pair: pair[0].compute_fraction)[1]
    return min(holding)[2] if holding else most


def drops_of(evaluation: Evaluation, content: str) -> list[float]:
    """Drops on the prompts of a class."""
    return [drop for drop, own in zip(evaluation.drops, evaluation.contents, strict=True) if own == content]


def judge(
    pipeline: Any, policies: Sequence[Policy], prompts: Sequence[Prompt], budget: Budget, batch_size: int
) -> list[dict[str, Any]]:
    """A row for each policy: its verdict, drop and measured time, on the same prompts, each until its verdict is clear."""
    error = look_error(1) / len(policies)

    def is_clear(evaluation: Evaluation) -> bool:
        return judgement_of(evaluation, budget, error, is_final=False).verdict != "undecided"

    evaluations = evaluate(pipeline, policies, prompts, STEPS, batch_size=batch_size, content="auto", is_done=is_clear)
    return [
        {
            "policy": evaluation.policy,
            "verdict": judgement_of(evaluation, budget, error).verdict,
            "prompts": len(evaluation.drops),
            "speedup": round(evaluation.speedup, 4),
            "latency_s": round(evaluation.latency_s, 4),
            "compute_fraction": round(evaluation.compute_fraction, 4),
            "drop": round(drop_statistics(evaluation.drops).mean, 4),
            "drops": {
                content: round(drop_statistics(drops_of(evaluation, content)).mean, 4)
                for content in dict.fromkeys(evaluation.contents)
            },
            "psnr_db": round(sum(evaluation.psnr_db) / len(evaluation.psnr_db), 2),
            "worst_psnr_db": round(min(evaluation.psnr_db), 2),
        }
        for evaluation in evaluations
    ]


def by_content(general: Policy, own: Mapping[str, Policy], split: Split) -> tuple[Policy, dict[str, Any]]:
    """One policy with a variant for each class and a classifier, and what the classifier got right on unseen captions."""
    classifier, accuracy = fit_on_split(split, CONTENTS)
    assert accuracy is not None
    return combine("by content", general, own, classifier, accuracy), accuracy.to_document()


@click.command()
@click.option("--budget", "text", default="shapes>=-1.0", show_default=True, help="On the score.")
@click.option("--front", type=click.Path(path_type=Path, exists=True), default=FRONT, help="Folder of policies.")
@click.option("--compared", default=60, show_default=True, help="Captions to choose on.")
@click.option("--judged", default=240, show_default=True, help="Captions to judge on at most.")
@click.option("--batch", default=1, show_default=True, help="Captions in a call.")
@click.option("--out", type=click.Path(path_type=Path), help="Where to save the document.")
def main(text: str, front: Path, compared: int, judged: int, batch: int, out: Path | None) -> None:
    budget = Budget.parse(text)
    policies = [replace(Policy.load(path), evidence={}) for path in sorted(front.glob("*.json"))]
    pipeline = load_pipeline("shapes")
    validated = read_prompts("shapes", None, compared, sample_seed=8, part="validate")
    evaluations = evaluate(pipeline, policies, validated, STEPS)
    names = {"one for all": CONTENTS, **{content: (content,) for content in CONTENTS}}
    chosen = {name: choose(evaluations, policies, budget, contents) for name, contents in names.items()}
    general = replace(chosen["one for all"], name="one for all")
    told, accuracy = by_content(
        general, {content: chosen[content] for content in CONTENTS}, sample_split(TUNED, VALIDATED, CLASSIFIED)
    )
    tested = read_prompts("shapes", None, judged, sample_seed=9, seed=50_000, part="test")
    rows = judge(pipeline, [general, told], tested, budget, batch)
    document = {
        "budget": str(budget),
        "classifier": accuracy,
        "chosen": {name: policy.name for name, policy in chosen.items()},
        "front": {
            policy.name: {
                "compute_fraction": round(evaluation.compute_fraction, 4),
                "drops": {
                    content: round(drop_statistics(drops_of(evaluation, content)).mean, 4) for content in CONTENTS
                },
            }
            for policy, evaluation in zip(policies, evaluations, strict=True)
        },
        "judged": rows,
        "speedup_over_one_for_all": round(rows[0]["latency_s"] / rows[1]["latency_s"], 4),
    }
    publish(document, 1, "cpu", out)


if __name__ == "__main__":
    main()
