"""Holds a search to its number of videos: what may still be fitted and tried, so that confirmation can be paid for.

Knows the plan and the meter of videos, and lets fitted schedules stand for their trials; knows nothing of Optuna.
"""

import json
from collections.abc import Sequence

import numpy as np
from diffusers import DiffusionPipeline

from pabtune.planning.presets import PRESETS
from pabtune.planning.ranking import surrogate_of_profile
from pabtune.planning.surrogate import Surrogate
from pabtune.quality.floors import Floor
from pabtune.records.policies import Policy
from pabtune.records.profiles import Profile
from pabtune.records.schedules import Schedule
from pabtune.runtime.weights import weights_digest
from pabtune.tuning.candidates import TrialRunner
from pabtune.tuning.generation import Generation, Settings
from pabtune.tuning.references import References
from pabtune.tuning.schedules import FIRSTS, PROBED_ONCE, PROBED_TWICE, FewVideos
from pabtune.tuning.trajectories import Trajectories
from pabtune.tuning.videos import VideoMeter, VideoPlan

MANY_MORE = 3
"""A profile of so many prompts for each one that is fitted on ranks schedules better than these do (docs/log.md)."""


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

    def few_videos(self, known: Surrogate | None = None) -> FewVideos | None:
        """What keeps the fitting of schedules to few videos; None where there is no limit.

        Args:
            known: surrogate of the profile; it spares probes where it knows many more prompts than are fitted on.
        """
        if self._meter.limit is None:
            return None
        if known is not None and (self._plan.is_wide or len(known.products) < MANY_MORE * self._plan.fitted):
            known = None
        return FewVideos(
            known=known,
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


def known_surrogate(
    pipeline: DiffusionPipeline, profile: Profile, settings: Settings, content: str | None
) -> Surrogate | None:
    """The surrogate of a profile that was measured with these weights and settings, probes included; None without any.

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
