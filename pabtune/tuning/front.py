"""The front: one policy for each useful number of computed steps, judged on unseen prompts beside runs of fewer steps.

Knows schedules and evaluations; knows nothing of trials.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from diffusers import DiffusionPipeline

from pabtune.quality.verdict import ERROR
from pabtune.records.evaluations import Evaluation
from pabtune.records.policies import Policy
from pabtune.records.profiles import Profile
from pabtune.records.prompts import Prompt, digest_prompts
from pabtune.records.schedules import Schedule
from pabtune.records.splits import Split, in_chance_order
from pabtune.records.verdicts import Judgement
from pabtune.tuning.generation import Progress
from pabtune.tuning.judging import (
    evaluate_unseen,
    evidence_of,
    final_judgement,
    has_impossible_loss,
    judgement_of,
    measured_on,
)
from pabtune.tuning.provenance import versions
from pabtune.tuning.request import SearchConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontPoint:
    """A policy of the front.

    Attributes:
        policy: with its evidence.
        evaluation: of it, on the prompts of the verdict.
        compared: of it, on the same prompts as `fewer_steps`.
        fewer_steps: of a run with as many denoising steps as the policy computes.
        is_useful: whether it is closer to the full run than fewer steps, and than every policy that computes less.
    """

    policy: Policy
    evaluation: Evaluation
    compared: Evaluation
    fewer_steps: Evaluation
    is_useful: bool


def judge_front(
    pipeline: DiffusionPipeline,
    profile: Profile,
    schedules: Sequence[Schedule],
    prompts: Split,
    config: SearchConfig,
    error: float,
    progress: Progress | None = None,
) -> list[FrontPoint]:
    """Compares a policy of each schedule with fewer steps, then judges all of them on unseen prompts.

    The verdicts are in a fixed order, from the most computed steps to the fewest, and none after the first that is not an
    accept is one: so all of them together have the error of one (Maurer et al. 1995).

    Args:
        pipeline: the model.
        profile: of it.
        schedules: from the most computed steps to the fewest.
        prompts: of the search: compared on the second part, judged on the third.
        config: of the search.
        error: largest probability of a false accept; 0 = the search's winner was not accepted, so nothing else can be.
        progress: told after each call of the pipeline.
    """
    counts = [len(schedule.computed) for schedule in schedules]
    names = [f"{config.name}-{count}of{profile.steps}" for count in counts]
    policies = [each.policy(name, profile.made_for) for each, name in zip(schedules, names, strict=True)]
    fewer_steps = [Policy(name=f"steps:{count}", steps=count) for count in counts]
    compared = evaluate_unseen(pipeline, [*policies, *fewer_steps], prompts.validate, profile, config, progress)
    unseen = prompts.test if error else in_chance_order(prompts.test)[: len(prompts.validate)]
    config = config.on_scale_of(unseen)
    judged = _judged(pipeline, policies, unseen, profile, config, error, progress)
    points, best_psnr = [], -np.inf
    found = zip(policies, compared[: len(policies)], compared[len(policies) :], judged, strict=True)
    for policy, evaluation, fewer, (judgement, on_test) in reversed(list(found)):
        psnr = float(np.mean(evaluation.psnr_db))
        points.append(
            FrontPoint(
                policy=replace(
                    policy,
                    evidence={
                        **evidence_of(on_test, judgement, profile, config.budget),
                        "measured_on": measured_on(pipeline),
                    },
                    provenance={
                        "profile": profile.digest,
                        "prompts": digest_prompts(prompts.tune),
                        "compared_on": digest_prompts(prompts.validate),
                        "judged_on": digest_prompts(prompts.test),
                        **versions(),
                    },
                ),
                evaluation=on_test,
                compared=evaluation,
                fewer_steps=fewer,
                is_useful=psnr > best_psnr and psnr > float(np.mean(fewer.psnr_db)),
            )
        )
        best_psnr = max(best_psnr, psnr)
    return points[::-1]


def _judged(
    pipeline: DiffusionPipeline,
    policies: Sequence[Policy],
    unseen: Sequence[Prompt],
    profile: Profile,
    config: SearchConfig,
    error: float,
    progress: Progress | None,
) -> list[tuple[Judgement, Evaluation]]:
    """Judgements in the order of the policies, and what they are on. After the first that is no accept, none is one."""

    order, rejected = [policy.name for policy in policies], set[int]()

    def is_clear(evaluation: Evaluation) -> bool:
        place = order.index(evaluation.policy)
        if has_impossible_loss(evaluation, config.budget):
            rejected.add(place)
            return True
        verdict = judgement_of(evaluation, config.budget, error or ERROR, config.floor, is_final=False).verdict
        if verdict == "reject":
            rejected.add(place)
        return verdict != "undecided" or any(other < place for other in rejected)

    evaluations = evaluate_unseen(pipeline, policies, unseen, profile, config, progress, is_done=is_clear)
    judgements, is_open = [], error > 0
    for evaluation in evaluations:
        judgement = final_judgement(evaluation, config.budget, error or ERROR, config.floor)
        if judgement.verdict == "accept" and not is_open:
            judgement = replace(judgement, verdict="undecided", needed=None)
        is_open &= judgement.verdict == "accept"
        judgements.append(judgement)
    return list(zip(judgements, evaluations, strict=True))
