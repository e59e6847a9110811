"""Confirming what won on the search's prompts, on prompts that the search never saw."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from diffusers import DiffusionPipeline

from pabtune.planning.presets import PRESETS
from pabtune.quality.budget import Verdict, drop_statistics, judge
from pabtune.records.evaluations import Evaluation
from pabtune.records.policies import Policy
from pabtune.records.profiles import Profile
from pabtune.records.prompts import Prompt, digest_prompts
from pabtune.tuning.evaluate import evaluate
from pabtune.tuning.profile import profiled_flops, versions
from pabtune.tuning.request import SearchConfig
from pabtune.tuning.results import Candidate

FINALISTS = 3
"""How many candidates are confirmed at most, the fastest first."""


def confirm(
    pipeline: DiffusionPipeline,
    profile: Profile,
    candidates: Sequence[Candidate],
    prompts: Sequence[Prompt],
    unseen: Sequence[Prompt],
    config: SearchConfig,
    study_name: str,
) -> tuple[Policy | None, Verdict | None, list[Evaluation]]:
    """The fastest feasible candidate that holds the budget and the floor on unseen prompts.

    If none of the finalists does for certain, the first that is not rejected is returned as undecided.
    """
    finalists = choose_finalists(candidates)
    floor = [PRESETS[config.floor]] if config.floor else []
    fallback: tuple[Policy | None, Verdict | None, list[Evaluation]] = (None, None, [])
    for finalist in finalists:
        evaluations = evaluate(
            pipeline,
            [finalist.policy, *floor],
            unseen,
            profile.steps,
            score=config.budget.score,
            batch_size=config.batch_size,
            arguments=config.arguments,
            flops=profiled_flops(profile),
        )
        verdict = judge(evaluations[0].drops, config.budget)
        if floor and np.mean(evaluations[0].psnr_db) < np.mean(evaluations[1].psnr_db):
            verdict = "reject"
        policy = with_evidence(finalist, evaluations, verdict, profile, prompts, unseen, config, study_name)
        if verdict == "accept":
            return policy, verdict, evaluations
        if fallback[1] in (None, "reject"):
            fallback = (policy, verdict, evaluations)
    return fallback


def choose_finalists(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The front of least time and most margin over the fidelity floor, the fastest first.

    A candidate that was given up only because another was faster may stand on it: it is the one to fall back on when the
    faster one does not hold on unseen prompts.
    """
    possible = [each for each in candidates if each.policy.rules and each.outcome.is_possible]
    front: list[Candidate] = []
    for candidate in sorted(possible, key=lambda each: (each.outcome.predicted_time, each.outcome.under_floor_db)):
        if not front or candidate.outcome.under_floor_db < front[-1].outcome.under_floor_db:
            front.append(candidate)
    return front[:FINALISTS]


def with_evidence(  # noqa: PLR0913, one record of everything
    finalist: Candidate,
    evaluations: Sequence[Evaluation],
    verdict: Verdict,
    profile: Profile,
    prompts: Sequence[Prompt],
    unseen: Sequence[Prompt],
    config: SearchConfig,
    study_name: str,
) -> Policy:
    """The finalist's policy with what was measured on unseen prompts, and how it was found."""
    own = evaluations[0]
    drop = drop_statistics(own.drops)
    document = own.to_document()
    return replace(
        finalist.policy,
        name=config.name,
        evidence={
            "budget": str(config.budget),
            "verdict": verdict,
            "score_drop": {"mean": round(drop.mean, 4), "ci95": [round(bound, 4) for bound in drop.ci95]},
            "speedup": {"measured": round(own.speedup, 4), "device": profile.made_for.settings.get("device")},
            "compute_fraction": round(own.compute_fraction, 4),
            "fidelity": {key: round(value, 4) for key, value in document["fidelity"].items()},
            "prompts": len(unseen),
            "unseen": digest_prompts(unseen),
        },
        provenance={
            "profile": profile.digest,
            "study": study_name,
            "trial": finalist.number,
            "origin": finalist.origin,
            "prompts": digest_prompts(prompts),
            **versions(),
        },
    )
