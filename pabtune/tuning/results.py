"""What a search found: finished trials, their front, the winner."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pabtune.quality.budget import Verdict
from pabtune.records.errors import PolicyError
from pabtune.records.evaluations import Evaluation
from pabtune.records.policies import Policy
from pabtune.tuning.candidates import Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A finished trial.

    Attributes:
        number: of the trial in its study.
        origin: `sampler`, or where its parameters come from.
        policy: what was tried.
        parameters: the same as values of the space.
        outcome: what came out.
    """

    number: int
    origin: str
    policy: Policy
    parameters: Mapping[str, int | str]
    outcome: Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """What a search found.

    Attributes:
        study: name of the study in its storage.
        candidates: all finished trials.
        best: the winner with its evidence; None if nothing was found inside the budget on the search's prompts.
        verdict: of the confirmation on unseen prompts; None without a winner.
        evaluations: of the confirmation: the winner, and the policy that it had to be as close as.
    """

    study: str
    candidates: tuple[Candidate, ...]
    best: Policy | None
    verdict: Verdict | None
    evaluations: tuple[Evaluation, ...]


def pareto_front(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Complete candidates that no other one beats in both predicted time and PSNR, by time."""
    front: list[Candidate] = []
    complete = [candidate for candidate in candidates if candidate.outcome.is_complete]
    for candidate in sorted(complete, key=lambda c: (c.outcome.predicted_time, -c.outcome.psnr_db)):
        if not front or candidate.outcome.psnr_db > front[-1].outcome.psnr_db:
            front.append(candidate)
    return front


def combine(name: str, general: Policy, per_content: Mapping[str, Policy]) -> Policy:
    """One policy with a variant per content class; its general rules serve prompts of no known class.

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
        evidence={
            **general.evidence,
            "variants": {content: dict(policy.evidence) for content, policy in per_content.items()},
        },
    )
