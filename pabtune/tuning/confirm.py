"""Confirming what won on the search's prompts, on prompts that the search never saw."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from diffusers import DiffusionPipeline

from pabtune.planning.masks import without_idle_rules
from pabtune.planning.presets import PRESETS
from pabtune.planning.schedules import NoiseSchedule
from pabtune.planning.units import units_of
from pabtune.quality.budget import LEAST_ACCEPTED_PROMPTS, LEAST_JUDGED_PROMPTS, Budget, drop_statistics, judge
from pabtune.quality.floors import Floor
from pabtune.quality.measures import EVERY
from pabtune.records.evaluations import Evaluation
from pabtune.records.policies import Policy
from pabtune.records.profiles import Profile
from pabtune.records.prompts import Prompt, digest_prompts
from pabtune.records.trials import Candidate, Verdict
from pabtune.tuning.evaluate import evaluate
from pabtune.tuning.generation import Progress
from pabtune.tuning.profile import versions
from pabtune.tuning.request import SearchConfig
from pabtune.tuning.videos import VideoMeter

FINALISTS = 4
"""How many candidates are confirmed at most, the fastest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirmation:
    """What unseen prompts showed.

    Attributes:
        best: the winner with its evidence; None if there was nothing to confirm, or all of it was rejected.
        verdict: on the finalist that came out best; None if there was none.
        evaluations: of that finalist, of the floor, and of a run of fewer steps in its time.
    """

    best: Policy | None
    verdict: Verdict | None
    evaluations: tuple[Evaluation, ...]


def confirm(  # noqa: PLR0913, PLR0917, a search's whole state ends here
    pipeline: DiffusionPipeline,
    profile: Profile,
    candidates: Sequence[Candidate],
    prompts: Sequence[Prompt],
    unseen: Sequence[Prompt],
    config: SearchConfig,
    study_name: str,
    looks: int = 1,
    most: int = FINALISTS,
    meter: VideoMeter | None = None,
) -> Confirmation:
    """Looks for the fastest candidate that holds the budget on unseen prompts and is no worse there than the floor.

    All finalists are measured in turns, on the same prompts. If none holds the budget for certain, the first that is not
    rejected is the best, as undecided; if all are rejected there is none. Bounds are corrected for the number of finalists and
    of looks: whoever looks often enough at the same prompts finds something that seems to hold.

    Args:
        pipeline: the model.
        profile: of it.
        candidates: finished trials.
        prompts: of the search.
        unseen: prompts that it never saw.
        config: of the search.
        study_name: name of the study.
        looks: how often studies of this storage have been confirmed on these prompts, this time included.
        most: finalists at most.
        meter: counts the videos.
    """
    floor = config.floor or Floor()
    is_limited = meter is not None and meter.limit is not None  # the preset is evaluated anyway, but not as a finalist
    finalists = choose_finalists(candidates, None if is_limited else floor.preset, most)
    if not finalists:
        return Confirmation(best=None, verdict=None, evaluations=())
    presets = [PRESETS[floor.preset]] if floor.preset else []
    rivals = {policy.name: policy for each in finalists for policy in fewer_steps(each, profile.steps)}
    policies = [*(finalist.policy for finalist in finalists), *presets, *rivals.values()]
    evaluations = evaluate_unseen(pipeline, policies, unseen, profile, config, meter=meter)
    of_preset = evaluations[len(finalists)] if presets else None
    comparisons = len(finalists) * looks
    standings = [
        assess(evaluation, floor, of_preset, config.budget, comparisons) for evaluation in evaluations[: len(finalists)]
    ]
    index = find_best(standings)
    evaluation, verdict = evaluations[index], standings[index].verdict
    policy = with_evidence(finalists[index], evaluation, verdict, profile, prompts, unseen, config, study_name)
    policy = replace(policy, evidence={**policy.evidence, "finalists": len(finalists), "looks": looks})
    own_rivals = [rival.name for rival in fewer_steps(finalists[index], profile.steps)]
    return Confirmation(
        best=None if verdict == "reject" else policy,
        verdict=verdict,
        evaluations=(
            evaluation,
            *evaluations[len(finalists) : len(finalists) + len(presets)],
            *(each for each in evaluations if each.policy in own_rivals),
        ),
    )


def evaluate_unseen(
    pipeline: DiffusionPipeline,
    policies: Sequence[Policy],
    unseen: Sequence[Prompt],
    profile: Profile,
    config: SearchConfig,
    progress: Progress | None = None,
    meter: VideoMeter | None = None,
) -> list[Evaluation]:
    """Evaluations of policies on unseen prompts, with the steps of the profile and all else as the search was configured.

    Args:
        pipeline: the model.
        policies: what to evaluate.
        unseen: prompts that the search never saw.
        profile: of the model.
        config: of the search.
        progress: told after each call of the pipeline.
        meter: counts the videos.
    """
    return evaluate(
        pipeline,
        policies,
        unseen,
        profile.steps,
        score=config.score or config.budget.score,
        measures=config.floor.on_demand if config.floor else (),
        batch_size=config.batch_size,
        arguments=config.arguments,
        catalog=config.catalog,
        progress=progress,
        meter=meter,
    )


@dataclass(frozen=True, slots=True)
class Standing:
    """How a finalist came out on unseen prompts.

    Attributes:
        verdict: on the budget; `reject` as well for one that is further from the unaccelerated video than the floor, on as
            many prompts as a verdict needs.
        loses_more: it was shown to lose more of the score than the floor, prompt by prompt.
    """

    verdict: Verdict
    loses_more: bool

    @property
    def order(self) -> tuple[int, bool]:
        """Smaller is better. Among equals the faster finalist, which comes first, wins."""
        return ["accept", "undecided", "reject"].index(self.verdict), self.loses_more


def assess(
    evaluation: Evaluation, floor: Floor, of_preset: Evaluation | None, budget: Budget, comparisons: int = 1
) -> Standing:
    """Holds a finalist's evaluation against the budget and the floor.

    Args:
        evaluation: of the finalist.
        floor: how close it must be.
        of_preset: evaluation of the floor's preset; None if it has none.
        budget: on the score.
        comparisons: finalists times looks at these prompts.
    """
    figures = {name: evaluation.values(EVERY[name].figure) for name in floor.measures}
    is_close = floor.missing_db(figures, of_preset.psnr_db if of_preset else ()) <= 0
    is_judged = len(evaluation.drops) >= LEAST_JUDGED_PROMPTS
    verdict = judge(evaluation.drops, budget, comparisons) if is_close or not is_judged else "reject"
    if of_preset is None:
        return Standing(verdict, loses_more=False)
    extra_drops = [drop - other for drop, other in zip(evaluation.drops, of_preset.drops, strict=True)]
    return Standing(verdict, loses_more=drop_statistics(extra_drops).lower > 0)


def find_best(standings: Sequence[Standing]) -> int:
    """Index of the best standing, the first of equals: a difference that was not shown does not make a slower one win."""
    return min(range(len(standings)), key=lambda index: standings[index].order)


def fewer_steps(finalist: Candidate, steps: int) -> list[Policy]:
    """The run of fewer denoising steps that takes the time of a finalist: what a user would try first."""
    count = round(finalist.outcome.predicted_time * steps)
    return [Policy(name=f"steps:{count}", steps=count)] if 0 < count < steps else []


def choose_finalists(
    candidates: Sequence[Candidate], preset: str | None = None, most: int = FINALISTS
) -> list[Candidate]:
    """The front of least time and most margin, the fastest first: over the fidelity floor, or without one, on the budget.

    A candidate that was given up only because another was faster may stand on it: it is the one to fall back on when the
    faster one does not hold on unseen prompts. The preset of the floor comes last, and takes the place of what is slower:
    it holds the floor by being it.
    """
    possible = [each for each in candidates if each.policy.rules and each.outcome.is_possible]
    front: list[Candidate] = []
    for candidate in sorted(possible, key=lambda each: (each.outcome.predicted_time, _shortfall(each))):
        if not front or _shortfall(candidate) < _shortfall(front[-1]):
            front.append(candidate)
    presets = [each for each in possible if preset is not None and each.origin == f"preset {preset}"]
    if not presets:
        return front[:most]
    faster = [each for each in front if each.outcome.predicted_time < presets[0].outcome.predicted_time]
    return [*faster[: most - 1], presets[0]]


def _shortfall(candidate: Candidate) -> float:
    """PSNR missing to the floor; where there is none, points of the score by which the budget is passed."""
    measured = candidate.outcome.measured
    if measured is None:
        return 0.0
    return measured.over_budget if measured.under_floor_db is None else measured.under_floor_db


def with_evidence(  # noqa: PLR0913, one record of everything
    finalist: Candidate,
    evaluation: Evaluation,
    verdict: Verdict,
    profile: Profile,
    prompts: Sequence[Prompt],
    unseen: Sequence[Prompt],
    config: SearchConfig,
    study_name: str,
) -> Policy:
    """The finalist's policy with what was measured on unseen prompts, and how it was found."""
    schedule = NoiseSchedule(steps=profile.steps, sigmas=profile.made_for.sigmas)
    sites = (*profile.sites, *units_of(finalist.policy, profile.sites))
    predicted = {**config.parallel_document(), "time_fraction": round(finalist.outcome.predicted_time, 4)}
    evidence = evidence_of(evaluation, verdict, profile, unseen, config.budget)
    return replace(
        without_idle_rules(finalist.policy, sites, schedule),
        name=config.name,
        evidence={**evidence, **({"predicted_on": predicted} if config.layout.gpus > 1 else {})},
        provenance={
            "profile": profile.digest,
            "study": study_name,
            "trial": finalist.number,
            "origin": finalist.origin,
            "prompts": digest_prompts(prompts),
            **versions(),
        },
    )


def evidence_of(
    evaluation: Evaluation, verdict: Verdict, profile: Profile, unseen: Sequence[Prompt], budget: Budget
) -> dict[str, Any]:
    """What was measured of a policy on unseen prompts, for its file.

    Args:
        evaluation: of the policy.
        verdict: on the budget.
        profile: of the model.
        unseen: prompts that the policy was evaluated on.
        budget: what the verdict is on.
    """
    drop = drop_statistics(evaluation.drops)
    return {
        "budget": str(budget),
        "verdict": verdict,
        "score_drop": {"mean": round(drop.mean, 4), "ci95": [round(bound, 4) for bound in drop.ci95]},
        "speedup": {"measured": round(evaluation.speedup, 4), "device": profile.made_for.settings.get("device")},
        "compute_fraction": round(evaluation.compute_fraction, 4),
        "fidelity": {key: round(value, 4) for key, value in evaluation.to_document()["fidelity"].items()},
        "prompts": len(unseen),
        **({"prompts_needed": LEAST_ACCEPTED_PROMPTS} if len(unseen) < LEAST_ACCEPTED_PROMPTS else {}),
        "unseen": digest_prompts(unseen),
    }
