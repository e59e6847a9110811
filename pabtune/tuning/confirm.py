"""Confirming what won on the search's prompts: finalists are compared on other prompts, and one is judged on further ones.

The verdict is on prompts that nothing was chosen on. A finalist that is rejected there gives way to the next one, which pays
for the second look with a smaller error.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

from diffusers import DiffusionPipeline

from pabtune.planning.masks import without_idle_rules
from pabtune.planning.presets import PRESETS
from pabtune.planning.schedules import NoiseSchedule
from pabtune.planning.units import units_of
from pabtune.quality.budget import LEAST_JUDGED_PROMPTS, Budget, drop_statistics
from pabtune.quality.floors import Floor
from pabtune.quality.measures import EVERY
from pabtune.quality.verdict import judge, look_error
from pabtune.records.evaluations import Evaluation
from pabtune.records.files import digest
from pabtune.records.policies import Policy
from pabtune.records.profiles import Profile
from pabtune.records.prompts import Prompt, digest_prompts
from pabtune.records.splits import Split, in_chance_order
from pabtune.records.trials import Candidate, Finalist, Standing
from pabtune.records.verdicts import Judgement, Verdict
from pabtune.runtime.weights import weights_digest
from pabtune.tuning.judging import evaluate_unseen, evidence_of, judge_policy, measured_on
from pabtune.tuning.provenance import versions
from pabtune.tuning.references import describe_argument, describe_scheduler
from pabtune.tuning.request import SearchConfig
from pabtune.tuning.videos import PER_JUDGED, VideoMeter

FINALISTS = 5
"""How many candidates are compared at most, the fastest first."""

MOST_JUDGED = 2
"""How many of them are judged at most: with each look at the same prompts an accept takes more of them."""

CLAIMED = ("rules", "store", "steps")
"""What a policy's document says of what it does."""

STANDINGS: tuple[Standing, ...] = get_args(Standing)
"""The best first."""


CountLook = Callable[[Sequence[Prompt], str], int]
"""Counts a look at some prompts, given the checksum of what is claimed of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirmation:
    """What unseen prompts showed.

    Attributes:
        best: the winner with its evidence; None if there was nothing to confirm, or all of it was rejected.
        verdict: on the finalist that was judged last; None if there was none.
        evaluations: of that finalist, of the floor, and of a run of fewer steps in its time, where finalists were compared.
        finalists: all that were compared, the fastest first.
        judgement: what the verdict rests on; None if no finalist got as far.
        judged: evaluation that the judgement is on.
    """

    best: Policy | None = None
    verdict: Verdict | None = None
    evaluations: tuple[Evaluation, ...] = ()
    finalists: tuple[Finalist, ...] = ()
    judgement: Judgement | None = None
    judged: Evaluation | None = None


def confirm(  # noqa: PLR0913, PLR0917, a search's whole state ends here
    pipeline: DiffusionPipeline,
    profile: Profile,
    candidates: Sequence[Candidate],
    prompts: Split,
    config: SearchConfig,
    study_name: str,
    count_look: CountLook = lambda unseen, claim: 1,
    most: int = FINALISTS,
    meter: VideoMeter | None = None,
) -> Confirmation:
    """Compares finalists on prompts that the search never saw, then judges the best of them on prompts that none of it saw.

    The best is the fastest that is not shown to lose more than the budget, and is no worse than the floor. If it is
    rejected, the next one is judged. If none is accepted, the last one that was judged is the best if it is undecided; else
    there is none.

    Args:
        pipeline: the model.
        profile: of it.
        candidates: finished trials.
        prompts: of the search.
        config: of the search.
        study_name: name of the study.
        count_look: counts a look at the prompts of the verdict; returns how many policies have been judged on them by all
            studies of this storage, this one included.
        most: finalists at most.
        meter: counts the videos.
    """
    floor = config.floor or Floor()
    is_limited = meter is not None and meter.limit is not None  # the preset is evaluated anyway, but not as a finalist
    finalists = choose_finalists(candidates, None if is_limited else floor.preset, most)
    if not finalists:
        return Confirmation()
    presets = [PRESETS[floor.preset]] if floor.preset else []
    rivals = {policy.name: policy for each in finalists for policy in fewer_steps(each, profile.asked_steps)}
    policies = [*(finalist.policy for finalist in finalists), *presets, *rivals.values()]
    compared = evaluate_unseen(pipeline, policies, prompts.validate, profile, config, meter=meter)
    of_preset = compared[len(finalists)] if presets else None
    budget = config.on_scale_of(prompts.validate).budget
    stood = tuple(
        Finalist(evaluation=each, standing=assess(each, floor, of_preset, budget))
        for each in compared[: len(finalists)]
    )
    order = sorted(range(len(finalists)), key=lambda index: STANDINGS.index(stood[index].standing))
    confirmation, place = Confirmation(), measured_on(pipeline)
    for index in order[:MOST_JUDGED]:
        finalist = finalists[index]
        rival_names = [rival.name for rival in fewer_steps(finalist, profile.asked_steps)]
        evaluations = (
            compared[index],
            *compared[len(finalists) : len(finalists) + len(presets)],
            *(each for each in compared if each.policy in rival_names),
        )
        if stood[index].standing == "rejected":
            if confirmation.judged:
                return confirmation
            return Confirmation(verdict="reject", evaluations=evaluations, finalists=stood)
        affordable = _affordable(len(prompts.test), meter, config.warm_up_videos(profile.asked_steps))
        if not affordable:
            # The one before was rejected with the last videos, or a run that was stopped took them.
            provenance = _provenance(finalist, profile, prompts, study_name)
            return confirmation if confirmation.judged else _unjudged(finalist, provenance, evaluations, stood, config)
        unseen = in_chance_order(prompts.test)[:affordable]
        look = count_look(unseen, claim_of(finalist.policy, pipeline, profile, config))
        scaled = config.on_scale_of(unseen)
        judgement, judged = judge_policy(
            pipeline, finalist.policy, unseen, profile, scaled, look_error(look), meter
        )  # fmt: skip
        policy = with_evidence(finalist, judged, judgement, profile, prompts, scaled, study_name)
        policy = replace(
            policy, evidence={**policy.evidence, "finalists": len(finalists), "looks": look, "measured_on": place}
        )
        confirmation = Confirmation(
            best=None if judgement.verdict == "reject" else policy,
            verdict=judgement.verdict,
            evaluations=evaluations,
            finalists=stood,
            judgement=judgement,
            judged=judged,
        )
        if judgement.verdict != "reject":
            break
    return confirmation


def _unjudged(
    finalist: Candidate,
    provenance: dict[str, Any],
    evaluations: tuple[Evaluation, ...],
    stood: tuple[Finalist, ...],
    config: SearchConfig,
) -> Confirmation:
    """What is left where no video is for a verdict."""
    evidence = {"budget": str(config.budget), "verdict": "undecided"}
    best = replace(finalist.policy, name=config.name, evidence=evidence, provenance=provenance)
    return Confirmation(best=best, verdict="undecided", evaluations=evaluations, finalists=stood)


def claim_of(policy: Policy, pipeline: DiffusionPipeline, profile: Profile, config: SearchConfig) -> str:
    """Checksum of what a verdict is on: what the policy does to which model, and the budget that it has to hold."""
    document = {key: value for key, value in policy.to_document().items() if key in CLAIMED}
    made_for, floor = profile.made_for.to_document(), None if config.floor is None else str(config.floor)
    score = None if config.score is None else config.score.version
    return digest(
        [
            [
                document,
                made_for,
                weights_digest(pipeline),
                describe_scheduler(pipeline),
                describe_argument(dict(config.arguments)),
                config.batch_size,
            ],
            [str(config.budget), config.budget.known_loss, floor, score],
        ]
    )


def _affordable(unseen: int, meter: VideoMeter | None, warm_up: float) -> int:
    """Prompts, of so many, that a limit of videos allows to judge on after a warm-up."""
    if meter is None or meter.left is None:
        return unseen
    return max(0, min(unseen, int((meter.left - warm_up) / PER_JUDGED)))


def assess(evaluation: Evaluation, floor: Floor, of_preset: Evaluation | None, budget: Budget) -> Standing:
    """Holds a finalist's evaluation against the budget and the floor.

    Rejected is what was shown to pass the budget, has a video that lost more than its largest loss, or is further from the
    unaccelerated video than the floor, on as many prompts as that needs. Over the budget is a mean drop, which need not be
    more than chance. What loses more than the floor was shown to lose some of the score, and more of it than the floor, prompt
    by prompt: one that is as good as the unaccelerated model is not worse for a floor that happens to score higher. Of equals
    the faster one wins.

    Args:
        evaluation: of the finalist.
        floor: how close it must be.
        of_preset: evaluation of the floor's preset; None if it has none.
        budget: on the score.
    """
    drops = evaluation.drops
    figures = {name: evaluation.values(EVERY[name].figure) for name in floor.measures}
    is_far = floor.missing_db(figures, of_preset.psnr_db if of_preset else ()) > 0
    is_far &= len(drops) >= LEAST_JUDGED_PROMPTS
    if is_far or max(drops) > budget.largest_loss or judge(drops, budget, is_final=False).verdict == "reject":
        return "rejected"
    if sum(drops) / len(drops) > budget.largest_drop:
        return "over the budget"
    if of_preset is not None:
        extra_drops = [drop - other for drop, other in zip(drops, of_preset.drops, strict=True)]
        if min(drop_statistics(drops).lower, drop_statistics(extra_drops).lower) > 0:
            return "loses more than the floor"
    return "holds"


def fewer_steps(finalist: Candidate, steps: int) -> list[Policy]:
    """The run of fewer denoising steps that takes the time of a finalist: what a user would try first."""
    count = round(finalist.outcome.predicted_time * steps)
    return [Policy(name=f"steps:{count}", steps=count)] if 0 < count < steps else []


def choose_finalists(
    candidates: Sequence[Candidate], preset: str | None = None, most: int = FINALISTS
) -> list[Candidate]:
    """The front of least time and most margin, the fastest first: over the fidelity floor, or without one, on the budget.

    Of a longer front the fastest, the one with the most margin, and others between them, at distances that grow: where the
    fastest fails the next ones may hold, and one far behind gives most of the time away. A candidate that was given up only
    because another was faster may stand on it. The preset of the floor comes last, and takes the place of what is slower: it
    holds the floor by being it.
    """
    possible = [each for each in candidates if each.policy.rules and each.outcome.is_possible]
    front: list[Candidate] = []
    for candidate in sorted(possible, key=lambda each: (each.outcome.predicted_time, _shortfall(each))):
        if not front or _shortfall(candidate) < _shortfall(front[-1]):
            front.append(candidate)
    presets = [each for each in possible if preset is not None and each.origin == f"preset {preset}"][:1]
    if presets:
        front = [each for each in front if each.outcome.predicted_time < presets[0].outcome.predicted_time]
    return [*_spread(front, most - len(presets)), *presets]


def _spread(front: Sequence[Candidate], count: int) -> list[Candidate]:
    """So many of a front, its ends among them, the closer together the faster; only the first if there is room for one."""
    if len(front) <= count or count < 2:
        return list(front[: max(count, 0)])
    places = [0]
    for index in range(1, count):
        places.append(max(places[-1] + 1, round(len(front) ** (index / (count - 1))) - 1))
    return [front[place] for place in places]


def _shortfall(candidate: Candidate) -> float:
    """PSNR missing to the floor; where there is none, points of the score by which the budget is passed."""
    measured = candidate.outcome.measured
    if measured is None:
        return 0.0
    return measured.over_budget if measured.under_floor_db is None else measured.under_floor_db


def with_evidence(  # noqa: PLR0913, PLR0917, one record of everything
    finalist: Candidate,
    evaluation: Evaluation,
    judgement: Judgement,
    profile: Profile,
    prompts: Split,
    config: SearchConfig,
    study_name: str,
) -> Policy:
    """The finalist's policy with what was measured on unseen prompts, and how it was found."""
    schedule = NoiseSchedule(steps=profile.steps, sigmas=profile.made_for.sigmas)
    sites = (*profile.sites, *units_of(finalist.policy, profile.sites))
    predicted = {**config.parallel_document(), "time_fraction": round(finalist.outcome.predicted_time, 4)}
    evidence = evidence_of(evaluation, judgement, profile, config.budget)
    return replace(
        without_idle_rules(finalist.policy, sites, schedule),
        name=config.name,
        evidence={**evidence, **({"predicted_on": predicted} if config.layout.gpus > 1 else {})},
        provenance={
            **_provenance(finalist, profile, prompts, study_name), "judged_on": digest_prompts(prompts.test)
        },
    )  # fmt: skip


def _provenance(finalist: Candidate, profile: Profile, prompts: Split, study_name: str) -> dict[str, Any]:
    """How a finalist was found, and with which prompts."""
    return {
        "profile": profile.digest,
        "study": study_name,
        "trial": finalist.number,
        "origin": finalist.origin,
        "prompts": digest_prompts(prompts.tune),
        "compared_on": digest_prompts(prompts.validate),
        **versions(),
    }
