"""Holds a search to its number of videos: what may still be fitted and tried, so that confirmation can be paid for.

Knows the plan and the meter of videos, and lets fitted schedules stand for their trials; knows nothing of Optuna.
"""

from collections.abc import Sequence

from pabtune.planning.presets import PRESETS
from pabtune.quality.floors import Floor
from pabtune.records.policies import Policy
from pabtune.records.schedules import Schedule
from pabtune.tuning.candidates import TrialRunner
from pabtune.tuning.generation import Generation
from pabtune.tuning.references import References
from pabtune.tuning.schedules import FIRSTS, PROBED_ONCE, PROBED_TWICE, FewVideos
from pabtune.tuning.trajectories import Trajectories
from pabtune.tuning.videos import VideoMeter, VideoPlan


class VideoLimits:
    """What a search may still spend videos on.

    Args:
        runner: tries policies out.
        references: unaccelerated videos of the search.
        plan: what videos are spent on.
        meter: counts them.
        floor: how close candidates must be to the unaccelerated video; None = no floor.
    """

    def __init__(
        self, runner: TrialRunner, references: References, plan: VideoPlan, meter: VideoMeter, floor: Floor | None
    ) -> None:
        self._runner, self._references, self._plan, self._meter, self._floor = runner, references, plan, meter, floor
        self._runs: Sequence[Trajectories] = ()
        self._floor_psnr_db: float | None = None
        self._has_floor = False

    @property
    def _confirmation(self) -> float:
        presets = int(self._floor is not None and self._floor.preset is not None)
        return self._plan.confirmation(presets)

    def few_videos(self) -> FewVideos | None:
        """What keeps the fitting of schedules to few videos; None where there is no limit."""
        if self._meter.limit is None:
            return None
        return FewVideos(
            probed=PROBED_TWICE if self._plan.is_wide else PROBED_ONCE,
            candidates=self._candidates,
            on_recorded=self._note_recorded,
            shortfall=self._shortfall,
            is_affordable=self._can_fit,
        )

    def set_floor(self) -> float | None:
        """Sets the floor for all candidates, once; returns the mean PSNR of its preset in dB, None without one."""
        if self._floor is not None and not self._has_floor:
            self._floor_psnr_db, self._has_floor = self._runner.set_floor(self._floor), True
        return self._floor_psnr_db

    def can_try(self, policy: Policy) -> bool:
        """Whether a trial of a policy leaves enough for confirmation."""
        if self._meter.left is None or self._runner.knows(policy):
            return True
        return self._meter.left >= self._plan.searched + self._confirmation

    def _can_fit(self) -> bool:
        """Whether fitting another number of steps, and its trial, leave enough for confirmation."""
        needed = self._plan.fitted * self._candidates + (0 if self._is_exact else self._plan.searched)
        return self._meter.left is None or self._meter.left >= needed + self._confirmation

    @property
    def _candidates(self) -> int:
        """Schedules that are fitted for a number of computed steps."""
        return len(FIRSTS) if self._plan.is_wide else 1

    @property
    def _is_exact(self) -> bool:
        """Whether the run that fits a schedule is its run under the policy: with several batches factors still change."""
        return len(self._runs) == 1 and self._plan.fitted == self._plan.searched and self._candidates == 1

    def _note_recorded(self, runs: Sequence[Trajectories]) -> None:
        """Recorded runs are the references of trials, and the trial of the policy that broadcasts nothing."""
        self._runs = runs
        for run in runs:
            self._references.keep(run.prompts, run.generation.videos)
            self._runner.remember(PRESETS["none"], run.prompts, run.generation)
        self.set_floor()

    def _shortfall(self, schedule: Schedule, generations: Sequence[Generation]) -> float:
        """What a fitted schedule lacks (see `FewVideos`)."""
        policy = Policy(name="fitted", rules=(schedule.rule,))
        for run, generation in zip(self._runs, generations, strict=True):
            self._runner.remember(policy, run.prompts, generation)
        shortfall = self._runner.shortfall(policy)
        if not self._is_exact:
            self._runner.forget(policy)
        return shortfall
