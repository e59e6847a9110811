"""Conclusions from finished trials: their Pareto front, and one policy of the winners for several content classes."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from pabtune.records.classifiers import PromptClassifier
from pabtune.records.errors import PolicyError
from pabtune.records.first_steps import FirstSteps
from pabtune.records.policies import Policy
from pabtune.records.trials import Candidate
from pabtune.tuning.classifying import Accuracy


def pareto_front(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Complete candidates that no other one beats in both predicted time and PSNR, by time."""
    points = [
        (candidate.outcome.predicted_time, -candidate.outcome.measured.psnr_db, candidate)
        for candidate in candidates
        if candidate.outcome.status == "complete" and candidate.outcome.measured is not None
    ]
    front: list[Candidate] = []
    best = float("inf")
    for _, negative_psnr_db, candidate in sorted(points, key=lambda point: point[:2]):
        if negative_psnr_db < best:
            front.append(candidate)
            best = negative_psnr_db
    return front


def combine(
    name: str,
    general: Policy,
    per_content: Mapping[str, Policy],
    classifier: PromptClassifier | FirstSteps | None = None,
    accuracy: Accuracy | None = None,
) -> Policy:
    """One policy with a variant per content class; its general rules serve prompts of no known class.

    Args:
        name: of the policy.
        general: for prompts of any class.
        per_content: by class.
        classifier: tells a prompt's class, or that of a run by its first steps.
        accuracy: of the classifier, on prompts that it was not fitted to.

    Raises:
        PolicyError: the policies were made for different models, or keep outputs in different ways.
    """
    if any(policy.made_for != general.made_for for policy in per_content.values()):
        raise PolicyError("variants of one policy must be made for the same model, schedule and settings")
    if any(policy.store != general.store for policy in per_content.values()):
        raise PolicyError("variants of one policy must keep outputs in the same way")
    return replace(
        general,
        name=name,
        variants={content: policy.rules for content, policy in per_content.items()},
        classifier=classifier if isinstance(classifier, PromptClassifier) else None,
        first_steps=classifier if isinstance(classifier, FirstSteps) else None,
        evidence={
            **general.evidence,
            "variants": {content: dict(policy.evidence) for content, policy in per_content.items()},
            **({} if accuracy is None else {_told_by(classifier): accuracy.to_document()}),
        },
    )


def _told_by(classifier: PromptClassifier | FirstSteps | None) -> str:
    """Under which key a policy's evidence has the accuracy."""
    return "first_steps" if isinstance(classifier, FirstSteps) else "classifier"
