"""Schedules before they run, and what makes them of a surrogate: whole calls, or what an engine holds."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from diffusers import DiffusionPipeline

from pabtune.planning.surrogate import Factors, Surrogate
from pabtune.records.schedules import Schedule
from pabtune.runtime.targets import Target
from pabtune.tuning.generation import Generation, Settings
from pabtune.tuning.trajectories import Trajectories


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A schedule as the surrogate ranks it.

    Attributes:
        computed: the steps that compute.
        factors: per step, of the last changes; None = they are fitted when it runs.
        objective: what it is ranked by; smaller is better.
    """

    computed: tuple[int, ...]
    factors: Factors | None = None
    objective: float


class Unit(Protocol):
    """What schedules broadcast."""

    def drafts(self, surrogates: Sequence[Surrogate], counts: Sequence[int], seed: int) -> dict[int, list[Draft]]:
        """Schedules that are worth a run, by their number of computed steps; the best by the first surrogate first.

        Args:
            surrogates: of a few full runs, from the same or from less.
            counts: numbers of computed steps that are asked for.
            seed: of the annealing.
        """

    def fit(
        self,
        pipeline: DiffusionPipeline,
        target: Target,
        runs: Sequence[Trajectories],
        settings: Settings,
        draft: Draft,
    ) -> tuple[Schedule, list[Generation]]:
        """A schedule that ran on the recorded prompts, how close it came, and its videos by batch."""

    def refine(
        self, pipeline: DiffusionPipeline, runs: Sequence[Trajectories], settings: Settings, schedule: Schedule
    ) -> Schedule:
        """A schedule that was fitted, with factors that bring its videos closer to the recorded ones, if there are any."""
