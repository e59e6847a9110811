"""Schedules: which steps compute, and what the others are made from, for each number of computed steps.

A few full runs are recorded; a surrogate ranks schedules by them without generating a video; the best ones run, which fits
their factors; those of the closest are refined, and the closest then is taken. Nothing here asks for a score.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil, isfinite, log, log2

import numpy as np
from diffusers import DiffusionPipeline

from pabtune.catalog import CATALOG, Catalog
from pabtune.planning.ranking import surrogate_of_profile
from pabtune.planning.surrogate import Surrogate, best_schedule, consensus
from pabtune.quality.fidelity import psnr_db
from pabtune.records.errors import FitError
from pabtune.records.policies import Policy
from pabtune.records.profiles import Profile
from pabtune.records.prompts import Prompt
from pabtune.records.rules import Rule
from pabtune.records.schedules import Fitted, FittedSoFar, Schedule
from pabtune.runtime.engine import broadcast
from pabtune.runtime.targets import Target
from pabtune.runtime.weights import weights_digest
from pabtune.tuning.drafts import Draft, Unit
from pabtune.tuning.fitting import fit_factors
from pabtune.tuning.generation import Generation, Settings, generate
from pabtune.tuning.refining import refine
from pabtune.tuning.request import SCHEDULE_SHARES
from pabtune.tuning.trajectories import NOT_FITTED, LatentsWatch, Trajectories, record_trajectories, surrogate_of

PROBED = (0.13, 0.23, 0.4, 0.7)
"""Where in a run it is measured how far an error moves the final latents.

Every other one, and all of them, make two surrogates, whose schedules are both tried: either is better at times (docs/log.md).
A profile that ranks schedules stands in for all of them, and every other one is measured.
"""

PROBED_TWICE, PROBED_ONCE = (0.13, 0.4), (0.23,)
"""The same where videos are limited, and where they are few."""

FIRSTS = (3, 4, 5)
"""Numbers of steps that a schedule begins with; each is tried. Where step 2 was skipped, a few videos became others."""

LARGEST_DOUBT = 0.7
"""Most by which the effect of another output on the latents may differ from what was found, relative to itself."""

ROUNDING_DB = 59.0
"""Closer videos differ by the rounding of 8-bit frames alone, and are not refined."""

REFINED = 2
"""Schedules of a number of steps that are refined, of which the closest is taken: it need not be the closest before."""

FEWEST_STEPS = 9
"""With fewer denoising steps schedules of whole calls are not searched: nothing is left to skip."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FewVideos:
    """What keeps the fitting of schedules to few videos: numbers of computed steps are bisected, not tried one by one.

    Attributes:
        probed: where in a run gains are measured.
        candidates: schedules that are fitted for a number of computed steps.
        on_recorded: given the full runs.
        shortfall: what a fitted schedule, with its videos by batch, lacks of what is asked for, in dB; infinite if it has
            lost more than closeness; 0 or less = nothing.
        is_affordable: asked before a schedule is fitted.
    """

    probed: Sequence[float]
    candidates: int
    on_recorded: Callable[[Sequence[Trajectories]], None]
    shortfall: Callable[[Schedule, Sequence[Generation]], float]
    is_affordable: Callable[[], bool]


def find_schedules(  # noqa: PLR0913, PLR0917, fitting depends on all of it
    pipeline: DiffusionPipeline,
    batches: Sequence[Sequence[Prompt]],
    settings: Settings,
    seed: int = 0,
    shares: Sequence[float] = SCHEDULE_SHARES,
    progress: Callable[[int, int], None] | None = None,
    catalog: Catalog = CATALOG,
    few: FewVideos | None = None,
    known: Surrogate | None = None,
    runs: Sequence[Trajectories] | None = None,
    unit: Unit | None = None,
    is_refined: bool = True,
    kept: FittedSoFar | None = None,
) -> list[Schedule]:
    """The best schedule for each number of computed steps, from the most to the fewest; none where none can be fitted.

    Args:
        pipeline: the model.
        batches: prompts to fit on, by batch.
        settings: how videos are generated.
        seed: of the annealing.
        shares: computed steps over all steps.
        progress: told how many of how many numbers of steps are done.
        catalog: what is known of transformer classes.
        few: keeps it to few videos, and to the numbers of steps that matter for what is asked for; None = fits all.
        known: surrogate of the model's profile; with as many prompts as are fitted on, and without a limit of videos, it
            proposes schedules too, and half of the runs with a broken step are spared.
        runs: full runs of the batches that were recorded before; None = they are recorded now.
        unit: what is broadcast; None = whole calls.
        is_refined: whether the factors of the best two schedules of each number of steps are refined by the final latents,
            which takes a run of each prompt for each factor of each gap; never where videos are few.
        kept: what a run that was killed has fitted, which is not fitted again; each number of steps is added when it is done.

    Raises:
        FitError: the pipeline does not tell its latents, or they do not follow from the outputs of calls.
    """
    target, unit = Target.of(pipeline, catalog), unit or WholeCalls(catalog)
    if settings.steps < FEWEST_STEPS and isinstance(unit, WholeCalls):
        return []
    if runs is None:
        runs = [record_trajectories(pipeline, target, batch, settings) for batch in batches]
    if few is not None:
        few.on_recorded(runs)
    surrogates = _surrogates(pipeline, runs, settings, catalog, few, known)
    counts = sorted({round(share * settings.steps) for share in shares}, reverse=True)
    drafts = {count: each for count, each in unit.drafts(surrogates, counts, seed).items() if each}

    def fit_count(count: int) -> Fitted:
        candidates = drafts[count] if few is None else drafts[count][: few.candidates]
        found = [unit.fit(pipeline, target, runs, settings, draft) for draft in candidates]
        found.sort(key=lambda each: each[0].closeness, reverse=True)
        schedule, generations = found[0]
        if few is not None:
            return Fitted(schedule=schedule, shortfall_db=few.shortfall(schedule, generations))
        if is_refined and schedule.psnr_db < ROUNDING_DB:
            refined = [unit.refine(pipeline, runs, settings, each) for each, _ in found[:REFINED]]
            schedule = max(refined, key=lambda each: each.closeness)
        return Fitted(schedule=schedule)

    kept = kept or FittedSoFar()
    fit_or_take, counts = partial(_fit_or_take, kept, fit_count), list(drafts)
    if few is not None:
        is_affordable = few.is_affordable
        predicted_db = [_predicted_db(drafts[count][0]) for count in counts]
        return _bisect(
            counts, fit_or_take, predicted_db, lambda count: kept.get(count) is not None or is_affordable(), progress
        )
    schedules = []
    for count in counts:
        schedules.append(fit_or_take(count).schedule)
        if progress:
            progress(len(schedules), len(counts))
    return schedules


def _surrogates(  # noqa: PLR0913, PLR0917, as `find_schedules`
    pipeline: DiffusionPipeline,
    runs: Sequence[Trajectories],
    settings: Settings,
    catalog: Catalog,
    few: FewVideos | None,
    known: Surrogate | None,
) -> list[Surrogate]:
    """What ranks schedules, from recorded runs and some with a broken step (see `find_schedules`)."""
    prompts = {prompt.prompt for run in runs for prompt in run.prompts}
    if known is not None and (few is not None or len(known.products) < len(prompts)):
        known = None
    probed = few.probed if few is not None else PROBED if known is None else PROBED_TWICE
    gains = [measure_gains(pipeline, run, settings, catalog, probed) for run in runs]
    if few is not None:
        return [surrogate_of(runs, gains)]
    halves = [{place: each[place] for place in sorted(each)[::2]} for each in gains]
    return [surrogate_of(runs, gains), known or surrogate_of(runs, halves)]


def _fit_or_take(kept: FittedSoFar, fit_count: Callable[[int], Fitted], count: int) -> Fitted:
    """What was fitted for a number of computed steps before, or is now, which is kept."""
    fitted = kept.get(count)
    if fitted is None:
        fitted = fit_count(count)
        kept.add(fitted)
    return fitted


def known_surrogate(
    pipeline: DiffusionPipeline, profile: Profile, settings: Settings, content: str | None
) -> Surrogate | None:
    """The surrogate of a profile that was measured with these weights and settings, broken steps included; None without any.

    Args:
        pipeline: the model.
        profile: of its class, with as many steps.
        settings: how videos are generated.
        content: content class of the prompts; None = all.
    """
    try:
        arguments = json.loads(json.dumps(dict(settings.arguments)))
    except (TypeError, ValueError):  # images, which a profile does not hold
        return None
    if (
        not profile.has_sensitivity
        or np.isnan(profile.arrays["gains"]).all()
        or content not in (None, *profile.contents)
        or profile.provenance.get("weights") != weights_digest(pipeline)
        or profile.made_for.settings.get("arguments", {}) != arguments
        or profile.made_for.scheduler != type(pipeline.scheduler).__name__
    ):
        return None
    return surrogate_of_profile(profile, content)


class WholeCalls:
    """Whole calls, whose factors are fitted while they run (see `Unit`).

    Args:
        catalog: what is known of transformer classes.
    """

    def __init__(self, catalog: Catalog = CATALOG) -> None:
        self._catalog = catalog

    def drafts(self, surrogates: Sequence[Surrogate], counts: Sequence[int], seed: int) -> dict[int, list[Draft]]:
        """The best schedules by each surrogate and number of steps to begin with (see `Unit`)."""
        return {count: _ranked(surrogates, count, seed) for count in counts}

    def fit(
        self,
        pipeline: DiffusionPipeline,
        target: Target,
        runs: Sequence[Trajectories],
        settings: Settings,
        draft: Draft,
    ) -> tuple[Schedule, list[Generation]]:
        """Fits the factors of a schedule (see `Unit`)."""
        return fit(pipeline, target, runs, settings, draft.computed)

    def refine(
        self, pipeline: DiffusionPipeline, runs: Sequence[Trajectories], settings: Settings, schedule: Schedule
    ) -> Schedule:
        """Refines the factors by what they do to the final latents (see `Unit`)."""
        return refine(pipeline, runs, settings, schedule, self._catalog)


def _ranked(surrogates: Sequence[Surrogate], count: int, seed: int) -> list[Draft]:
    """The best schedules by each surrogate and number of steps to begin with, the best by the first surrogate first.

    And what these agree on, of each number of steps to begin with and of all: even schedules, which surrogates rank lower than
    where annealing ends, and which are often closer (docs/log.md).
    """
    groups = [
        [best_schedule(surrogate, count, first, seed=seed) for surrogate in surrogates]
        for first in FIRSTS
        if first + 1 < count
    ]
    every = [computed for group in groups for computed in group]
    found = set(every)
    if len(surrogates) > 1 and every:
        found |= {consensus(group, surrogates[0].takeovers) for group in (*groups, every)}
    drafts = [Draft(computed=computed, objective=surrogates[0].objective(computed)) for computed in found]
    return sorted(drafts, key=lambda draft: draft.objective)


def _predicted_db(draft: Draft) -> float:
    """PSNR of a schedule by the surrogate, in dB from some level that is the same for all schedules."""
    return -10 / log(10) * draft.objective


def _bisect(
    counts: Sequence[int],
    fit_count: Callable[[int], Fitted],
    predicted_db: Sequence[float],
    may_fit: Callable[[int], bool],
    progress: Callable[[int, int], None] | None,
) -> list[Schedule]:
    """Fits schedules until the fewest computed steps are found that lack nothing, or no more videos may be generated.

    The next number of steps is where the surrogate, shifted to what the last schedule showed, says that nothing is lacking.

    Args:
        counts: numbers of computed steps, from the most to the fewest.
        fit_count: fits a schedule.
        predicted_db: PSNR of each count by the surrogate, from some level.
        may_fit: whether there are videos for a number of computed steps.
        progress: told how many of how many are fitted.
    """
    schedules: list[Schedule] = []
    low, high, place = -1, len(counts), len(counts) // 2
    while high - low > 1 and may_fit(counts[place]):
        fitted = fit_count(counts[place])
        schedules.append(fitted.schedule)
        shortfall = fitted.shortfall_db
        low, high = (place, high) if shortfall <= 0 else (low, place)
        spare_db = [predicted_db[each] - predicted_db[place] - shortfall for each in range(low + 1, high)]
        enough = [low + 1 + index for index, spare in enumerate(spare_db) if spare >= 0]
        place = max(enough, default=low + 1) if isfinite(shortfall) else (low + high) // 2
        if progress:
            progress(len(schedules), len(schedules) + ceil(log2(max(high - low, 1))))
    return sorted(schedules, key=lambda each: len(each.computed), reverse=True)


def fit(
    pipeline: DiffusionPipeline,
    target: Target,
    runs: Sequence[Trajectories],
    settings: Settings,
    computed: Sequence[int],
) -> tuple[Schedule, list[Generation]]:
    """A schedule with its factors, fitted and held against the full runs on the same prompts, and its videos by batch."""
    factors, results = fit_factors(pipeline, target, runs, settings, computed)
    generations = [generation for generation, _ in results]
    psnrs = [
        psnr_db(video, reference)
        for run, generation in zip(runs, generations, strict=True)
        for video, reference in zip(generation.videos, run.generation.videos, strict=True)
    ]
    schedule = Schedule(computed=tuple(computed), factors=factors, psnr_db=0.0, tail_psnr_db=0.0)
    return schedule.measured(psnrs), generations


def measure_gains(
    pipeline: DiffusionPipeline,
    run: Trajectories,
    settings: Settings,
    catalog: Catalog = CATALOG,
    probed: Sequence[float] = PROBED,
) -> dict[int, list[float]]:
    """How far an error made at a step moves the final latents, per video: the size of one over that of the other.

    Args:
        pipeline: the model.
        run: full runs of one batch.
        settings: how videos are generated.
        catalog: what is known of transformer classes.
        probed: where in the run they are measured, 0..1.

    Raises:
        FitError: the latents do not follow from outputs as was found.
    """
    gains, doubts = {}, []
    for step in _probed_steps(run, probed):
        computed = tuple(each for each in range(settings.steps) if each != step)
        policy, watch = Policy(name="probe", rules=(Rule(kind="transformer", compute=computed),)), LatentsWatch()
        with broadcast(pipeline, policy, catalog=catalog):
            generate(pipeline, run.prompts, watch.settings(settings))
        made, final = watch.after[step] - run.latents[step], watch.after[-1] - run.latents[-1]
        expected = run.recurrences[step].rate * (run.outputs[step - 1] - run.outputs[step])
        doubts.append(float((made - expected).norm() / made.norm().clamp_min(1e-12)))
        gains[step] = (final.flatten(1).norm(dim=1) / made.flatten(1).norm(dim=1).clamp_min(1e-12)).tolist()
    if np.median(doubts) > LARGEST_DOUBT:
        raise FitError(
            f"the latents of {type(pipeline).__name__} answer to outputs otherwise than was found from full runs, by "
            f"{np.median(doubts):.0%}: {NOT_FITTED} for it"
        )
    return gains


def _probed_steps(run: Trajectories, probed: Sequence[float]) -> list[int]:
    """Steps at which gains are measured: not where a transformer takes over, which computes in any case."""
    steps = len(run.latents)
    possible = [step for step in range(1, steps - 1) if step not in run.takeovers]
    return sorted({min(possible, key=lambda step: abs(step - round(share * steps))) for share in probed})
