"""Judging a policy on unseen prompts, round by round until the verdict is clear, and the evidence for its file."""

import platform
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from diffusers import DiffusionPipeline

from pabtune.libraries.diffusers_internals import execution_device
from pabtune.quality.budget import Budget
from pabtune.quality.floors import Floor
from pabtune.quality.measures import EVERY
from pabtune.quality.verdict import judge
from pabtune.records.evaluations import Evaluation
from pabtune.records.policies import Policy
from pabtune.records.profiles import Profile
from pabtune.records.prompts import Prompt
from pabtune.records.verdicts import Judgement
from pabtune.tuning.evaluate import IsDone, evaluate
from pabtune.tuning.generation import Progress
from pabtune.tuning.provenance import device_name
from pabtune.tuning.request import SearchConfig
from pabtune.tuning.videos import VideoMeter


def judge_policy(
    pipeline: DiffusionPipeline,
    policy: Policy,
    unseen: Sequence[Prompt],
    profile: Profile,
    config: SearchConfig,
    error: float,
    meter: VideoMeter | None = None,
) -> tuple[Judgement, Evaluation]:
    """Judges a policy, round by round of unseen prompts, until the verdict is clear or no prompts are left.

    Args:
        pipeline: the model.
        policy: the policy.
        unseen: prompts that nothing was chosen on.
        profile: of the model.
        config: of the search.
        error: largest probability of accepting by mistake.
        meter: counts the videos.
    """

    def is_clear(evaluation: Evaluation) -> bool:
        return is_decided(evaluation, config.budget, error, config.floor)

    (evaluation,) = evaluate_unseen(pipeline, [policy], unseen, profile, config, meter=meter, is_done=is_clear)
    return final_judgement(evaluation, config.budget, error, config.floor), evaluation


def is_decided(evaluation: Evaluation, budget: Budget, error: float, floor: Floor | None = None) -> bool:
    """Whether the verdict on an evaluation is clear: also where a video lost more than the budget takes for possible."""
    return has_impossible_loss(evaluation, budget) or (
        judgement_of(evaluation, budget, error, floor, is_final=False).verdict != "undecided"
    )


def has_impossible_loss(evaluation: Evaluation, budget: Budget) -> bool:
    """Whether a video lost more than the budget takes for possible, on which its bet rests."""
    return max(evaluation.drops) > budget.largest_loss


def final_judgement(evaluation: Evaluation, budget: Budget, error: float, floor: Floor | None = None) -> Judgement:
    """The verdict on an evaluation; where a video lost more than the user takes for possible, it is a reject."""
    if has_impossible_loss(evaluation, budget):
        judgement = judgement_of(evaluation, replace(budget, known_loss=None), error, floor)
        return replace(judgement, verdict="reject")
    return judgement_of(evaluation, budget, error, floor)


def judgement_of(
    evaluation: Evaluation, budget: Budget, error: float, floor: Floor | None = None, *, is_final: bool = True
) -> Judgement:
    """The verdict on an evaluation.

    Args:
        evaluation: of a policy on unseen prompts.
        budget: on its score.
        error: largest probability of accepting by mistake.
        floor: a video worse than its worst one may be counts as broken.
        is_final: whether intervals are wanted.
    """
    return judge(
        evaluation.drops,
        budget,
        prompts=evaluation.prompts,
        contents=evaluation.contents,
        broken=_broken(evaluation, floor),
        error=error,
        is_final=is_final,
    )


def _broken(evaluation: Evaluation, floor: Floor | None) -> list[bool]:
    """Which videos are worse than the worst one may be."""
    figures = {name: evaluation.values(EVERY[name].figure) for name in (floor.measures if floor else ())}
    return [
        floor is not None and floor.is_lost({name: values[index : index + 1] for name, values in figures.items()})
        for index in range(len(evaluation.psnr_db))
    ]


def evaluate_unseen(
    pipeline: DiffusionPipeline,
    policies: Sequence[Policy],
    unseen: Sequence[Prompt],
    profile: Profile,
    config: SearchConfig,
    progress: Progress | None = None,
    meter: VideoMeter | None = None,
    is_done: IsDone | None = None,
) -> list[Evaluation]:
    """Evaluations of policies on unseen prompts, with the profile's steps and all else as the search was configured.

    Args:
        pipeline: the model.
        policies: what to evaluate.
        unseen: prompts that the search never saw.
        profile: of the model.
        config: of the search.
        progress: told after each call of the pipeline.
        meter: counts the videos.
        is_done: asked after each round of each policy whether the rest can be left out; not of a score that is told by all
            prompts together.
    """
    return evaluate(
        pipeline,
        policies,
        unseen,
        profile.asked_steps,
        score=config.score or config.budget.score,
        measures=config.floor.on_demand if config.floor else (),
        batch_size=config.batch_size,
        arguments=config.arguments,
        catalog=config.catalog,
        progress=progress,
        meter=meter,
        known_calls=config.known_calls,
        is_done=None if config.score is not None and config.score.is_of_all else is_done,
    )


def measured_on(pipeline: DiffusionPipeline) -> dict[str, str]:
    """Device and machine of this process, on which all times of a winner are measured."""
    return {"device": device_name(execution_device(pipeline)), "host": platform.node()}


def evidence_of(evaluation: Evaluation, judgement: Judgement, profile: Profile, budget: Budget) -> dict[str, Any]:
    """What was measured of a policy on unseen prompts, for its file.

    Args:
        evaluation: of the policy.
        judgement: of it.
        profile: of the model.
        budget: what the verdict is on.
    """
    document = judgement.to_document()
    return {
        "budget": str(budget),
        "verdict": judgement.verdict,
        "score_drop": {"mean": document.pop("mean_drop"), "ci95": document.pop("ci95")},
        "speedup": {"measured": round(evaluation.speedup, 4), "device": profile.made_for.settings.get("device")},
        "compute_fraction": round(evaluation.compute_fraction, 4),
        "fidelity": {key: round(value, 4) for key, value in evaluation.to_document()["fidelity"].items()},
        **{key: value for key, value in document.items() if key != "verdict" and value is not None},
        **({} if budget.known_loss is None else {"assumed_largest_loss": budget.known_loss}),
    }
