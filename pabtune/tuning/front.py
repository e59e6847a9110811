"""The front: one policy for each useful number of computed steps, judged on unseen prompts beside runs of fewer steps.

Knows schedules and evaluations; knows nothing of trials.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from diffusers import DiffusionPipeline

from pabtune.quality.budget import judge
from pabtune.records.evaluations import Evaluation
from pabtune.records.policies import Policy
from pabtune.records.profiles import Profile
from pabtune.records.prompts import Prompt, digest_prompts
from pabtune.records.schedules import Schedule
from pabtune.tuning.confirm import evaluate_unseen, evidence_of
from pabtune.tuning.generation import Progress
from pabtune.tuning.profile import versions
from pabtune.tuning.request import SearchConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontPoint:
    """A policy of the front.

    Attributes:
        policy: with its evidence.
        evaluation: of it.
        fewer_steps: of a run with as many denoising steps as the policy computes.
        is_useful: whether it is closer to the full run than fewer steps, and than every policy that computes less.
    """

    policy: Policy
    evaluation: Evaluation
    fewer_steps: Evaluation
    is_useful: bool


def judge_front(
    pipeline: DiffusionPipeline,
    profile: Profile,
    schedules: Sequence[Schedule],
    unseen: Sequence[Prompt],
    config: SearchConfig,
    progress: Progress | None = None,
) -> list[FrontPoint]:
    """Evaluates a policy of each schedule on unseen prompts, in turns with the full run and runs of fewer steps.

    Args:
        pipeline: the model.
        profile: of it.
        schedules: from the most computed steps to the fewest.
        unseen: prompts that the schedules were not fitted on.
        config: of the search.
        progress: told after each call of the pipeline.
    """
    counts = [len(schedule.computed) for schedule in schedules]
    names = [f"{config.name}-{count}of{profile.steps}" for count in counts]
    policies = [each.policy(name, profile.made_for) for each, name in zip(schedules, names, strict=True)]
    fewer_steps = [Policy(name=f"steps:{count}", steps=count) for count in counts]
    evaluations = evaluate_unseen(pipeline, [*policies, *fewer_steps], unseen, profile, config, progress)
    points, best_psnr = [], -np.inf
    found = list(zip(policies, evaluations[: len(policies)], evaluations[len(policies) :], strict=True))
    for policy, evaluation, fewer in reversed(found):
        psnr = float(np.mean(evaluation.psnr_db))
        verdict = judge(evaluation.drops, config.budget, len(policies))
        points.append(
            FrontPoint(
                policy=replace(
                    policy,
                    evidence=evidence_of(evaluation, verdict, profile, unseen, config.budget),
                    provenance={"profile": profile.digest, "unseen": digest_prompts(unseen), **versions()},
                ),
                evaluation=evaluation,
                fewer_steps=fewer,
                is_useful=psnr > best_psnr and psnr > float(np.mean(fewer.psnr_db)),
            )
        )
        best_psnr = max(best_psnr, psnr)
    return points[::-1]
