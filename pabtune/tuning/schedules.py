"""Schedules of whole calls: which steps compute, and what the others are made from, for each number of computed steps.

A few full runs are recorded; a surrogate ranks schedules by them without generating a video; the best ones run, which fits
their factors, and the closest to the full runs is taken. Nothing here asks for a score.
"""

from collections.abc import Callable, Sequence

import numpy as np
from diffusers import DiffusionPipeline

from pabtune.catalog import CATALOG, Catalog
from pabtune.planning.surrogate import best_schedule
from pabtune.quality.fidelity import psnr_db
from pabtune.records.errors import ModelError
from pabtune.records.policies import Policy
from pabtune.records.prompts import Prompt
from pabtune.records.rules import Rule
from pabtune.records.schedules import Schedule
from pabtune.runtime.engine import broadcast
from pabtune.runtime.targets import Target
from pabtune.tuning.fitting import fit_factors
from pabtune.tuning.generation import Settings, generate
from pabtune.tuning.request import SCHEDULE_SHARES
from pabtune.tuning.trajectories import NOT_FITTED, LatentsWatch, Trajectories, record_trajectories, surrogate_of

PROBED = (0.13, 0.23, 0.4, 0.7)
"""Where in a run it is measured how far an error moves the final latents."""

FIRSTS = (3, 4, 5)
"""Numbers of steps that a schedule begins with; each is tried. Where step 2 was skipped, a few videos became others."""

LARGEST_DOUBT = 0.7
"""Most by which the effect of another output on the latents may differ from what was found, relative to itself."""

FEWEST_STEPS = 9
"""With fewer denoising steps schedules of whole calls are not searched: nothing is left to skip."""


def find_schedules(
    pipeline: DiffusionPipeline,
    batches: Sequence[Sequence[Prompt]],
    settings: Settings,
    seed: int = 0,
    shares: Sequence[float] = SCHEDULE_SHARES,
    progress: Callable[[int, int], None] | None = None,
    catalog: Catalog = CATALOG,
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

    Raises:
        ModelError: the pipeline does not tell its latents, or they do not follow from the outputs of calls.
    """
    target = Target.of(pipeline, catalog)
    if settings.steps < FEWEST_STEPS:
        return []
    runs = [record_trajectories(pipeline, target, batch, settings) for batch in batches]
    surrogate = surrogate_of(runs, [measure_gains(pipeline, run, settings, catalog) for run in runs])
    counts = sorted({round(share * settings.steps) for share in shares}, reverse=True)
    schedules = []
    for done, count in enumerate(counts):
        candidates = {best_schedule(surrogate, count, first, seed=seed) for first in FIRSTS if first + 1 < count}
        fitted = [fit(pipeline, target, runs, settings, computed) for computed in sorted(candidates)]
        if fitted:
            schedules.append(max(fitted, key=lambda each: each.psnr_db + each.worst_psnr_db))
        if progress:
            progress(done + 1, len(counts))
    return schedules


def fit(
    pipeline: DiffusionPipeline,
    target: Target,
    runs: Sequence[Trajectories],
    settings: Settings,
    computed: Sequence[int],
) -> Schedule:
    """A schedule with its factors, fitted and held against the full runs on the same prompts."""
    factors, results = fit_factors(pipeline, target, runs, settings, computed)
    psnrs = [
        psnr_db(video, reference)
        for run, (generation, _) in zip(runs, results, strict=True)
        for video, reference in zip(generation.videos, run.generation.videos, strict=True)
    ]
    return Schedule(
        computed=tuple(computed), factors=factors, psnr_db=float(np.mean(psnrs)), worst_psnr_db=float(np.min(psnrs))
    )


def measure_gains(
    pipeline: DiffusionPipeline, run: Trajectories, settings: Settings, catalog: Catalog = CATALOG
) -> dict[int, list[float]]:
    """How far an error made at a step moves the final latents, per video: the size of one over that of the other.

    Args:
        pipeline: the model.
        run: full runs of one batch.
        settings: how videos are generated.
        catalog: what is known of transformer classes.

    Raises:
        ModelError: the latents do not follow from outputs as was found.
    """
    gains, doubts = {}, []
    for step in _probed_steps(run):
        computed = tuple(each for each in range(settings.steps) if each != step)
        policy, watch = Policy(name="probe", rules=(Rule(kind="transformer", compute=computed),)), LatentsWatch()
        with broadcast(pipeline, policy, catalog=catalog):
            generate(pipeline, run.prompts, watch.settings(settings))
        made, final = watch.after[step] - run.latents[step], watch.after[-1] - run.latents[-1]
        expected = run.recurrences[step].rate * (run.outputs[step - 1] - run.outputs[step])
        doubts.append(float((made - expected).norm() / made.norm().clamp_min(1e-12)))
        gains[step] = (final.flatten(1).norm(dim=1) / made.flatten(1).norm(dim=1).clamp_min(1e-12)).tolist()
    if np.median(doubts) > LARGEST_DOUBT:
        raise ModelError(
            f"the latents of {type(pipeline).__name__} answer to outputs otherwise than was found from full runs, by "
            f"{np.median(doubts):.0%}: {NOT_FITTED} for it"
        )
    return gains


def _probed_steps(run: Trajectories) -> list[int]:
    """Steps at which gains are measured: not where a transformer takes over, which computes in any case."""
    steps = len(run.latents)
    possible = [step for step in range(1, steps - 1) if step not in run.takeovers]
    return sorted({min(possible, key=lambda step: abs(step - round(share * steps))) for share in PROBED})
