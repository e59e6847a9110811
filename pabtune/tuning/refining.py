"""Refining the factors of a schedule of whole calls by what they do to the final latents.

Factors that were fitted step by step bring the next latents close to the full run's, whatever the network makes of what is
still missing. Here each gap between computed steps gets an offset for each of its factors. Runs with one offset each tell how
the final latents answer; the offsets that bring them closest to the full runs' follow by least squares (Gauss-Newton, with
Levenberg's and Marquardt's damping). The network sees the sum over a gap alone, so one offset for all its steps is enough.

Knows schedules, recorded runs and latents; knows nothing of scores, trials or how factors were found before.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from diffusers import DiffusionPipeline
from numpy.typing import NDArray
from torch import Tensor

from pabtune.catalog import CATALOG, Catalog
from pabtune.planning.surrogate import Factors
from pabtune.quality.fidelity import psnr_db
from pabtune.records.policies import Policy
from pabtune.records.schedules import Schedule
from pabtune.runtime.engine import broadcast
from pabtune.tuning.generation import Settings, generate
from pabtune.tuning.trajectories import LatentsWatch, Trajectories

OFFSET = 0.03
"""By which a factor is moved to see how the final latents answer."""

DAMPINGS = (0.3, 0.03, 0.003)
"""Each is tried; the one whose videos are closest is taken."""

LEAST_ERROR = 1e-12
"""Smaller mean squared errors of latents are taken for this."""


@dataclass(frozen=True, slots=True)
class Place:
    """One factor of all steps of a gap.

    Attributes:
        steps: of the gap.
        back: which of the changes it multiplies, 0 = the last.
    """

    steps: tuple[int, ...]
    back: int

    def moved(self, factors: Factors, offset: float) -> Factors:
        """Factors with this one moved."""
        return tuple(
            tuple(factor + offset * (back == self.back) for back, factor in enumerate(each))
            if step in self.steps
            else each
            for step, each in enumerate(factors)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """A schedule that ran on recorded prompts.

    Attributes:
        schedule: with its closeness in this run.
        finals: final latents of each batch, (prompts, …).
    """

    schedule: Schedule
    finals: list[Tensor]


def refine(
    pipeline: DiffusionPipeline,
    runs: Sequence[Trajectories],
    settings: Settings,
    schedule: Schedule,
    catalog: Catalog = CATALOG,
) -> Schedule:
    """The schedule with factors whose final latents are closer to the full runs', or as it is if none are found.

    It takes a run of each prompt under the schedule for each factor of each gap, and four more.

    Args:
        pipeline: the model.
        runs: recorded full runs, a batch each.
        settings: how videos are generated.
        schedule: of whole calls, with its factors.
        catalog: what is known of transformer classes.
    """
    places = places_of(schedule)
    start = _run(pipeline, runs, settings, schedule, catalog)
    if not places:
        return start.schedule
    normal, right = np.zeros((len(places), len(places))), np.zeros(len(places))
    for run, final in zip(runs, start.finals, strict=True):
        answers = []
        for place in places:
            moved = replace(schedule, factors=place.moved(schedule.factors, OFFSET))
            (answer,) = _run(pipeline, [run], settings, moved, catalog).finals
            answers.append((answer - final) / OFFSET)
        missing = run.latents[-1] - final
        matrix, target = _weighed(answers, missing)
        normal, right = normal + matrix.T @ matrix, right + matrix.T @ target
    if not (np.isfinite(normal).all() and np.isfinite(right).all()):
        return start.schedule
    best = start
    for damping in DAMPINGS:
        offsets = np.linalg.lstsq(normal + damping * np.diag(np.diag(normal)), right, rcond=None)[0]
        factors = schedule.factors
        for place, offset in zip(places, offsets.tolist(), strict=True):
            factors = place.moved(factors, offset)
        found = _run(pipeline, runs, settings, replace(schedule, factors=factors), catalog)
        best = max(best, found, key=lambda each: each.schedule.closeness)
    return best.schedule


def places_of(schedule: Schedule) -> list[Place]:
    """The factors of each gap between computed steps."""
    gaps = [tuple(range(first + 1, second)) for first, second in pairwise((*schedule.computed, len(schedule.factors)))]
    return [
        Place(steps, back)
        for steps in gaps
        for back in range(max((len(schedule.factors[step]) for step in steps), default=0))
    ]


def _run(
    pipeline: DiffusionPipeline, runs: Sequence[Trajectories], settings: Settings, schedule: Schedule, catalog: Catalog
) -> Tried:
    """Runs a schedule on recorded prompts, and holds it against their full runs."""
    policy, finals, psnrs = Policy(name="refined", rules=(schedule.rule,)), list[Tensor](), list[float]()
    with broadcast(pipeline, policy, catalog=catalog, any_steps=True):
        for run in runs:
            watch = LatentsWatch()
            videos = generate(pipeline, run.prompts, watch.settings(settings)).videos
            finals.append(watch.after[-1])
            psnrs += [psnr_db(*pair) for pair in zip(videos, run.generation.videos, strict=True)]
    return Tried(schedule=schedule.measured(psnrs), finals=finals)


def _weighed(answers: Sequence[Tensor], missing: Tensor) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Answers and what is missing, as columns: a video counts by the root of its error, between the mean and its logarithm.

    Args:
        answers: of the final latents to each factor, (videos, …) each.
        missing: what should be added to the final latents, (videos, …).
    """
    target = missing.flatten(1).double()
    weights = target.square().mean(dim=1, keepdim=True).clamp_min(LEAST_ERROR) ** -0.25
    columns = [(answer.flatten(1).double() * weights).flatten() for answer in answers]
    return torch.stack(columns, dim=1).numpy(), (target * weights).flatten().numpy()
