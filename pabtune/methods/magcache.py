"""MagCache (https://arxiv.org/abs/2506.09045): compute when the size of what the blocks add is no longer what it was.

Full runs tell by how much the size of the blocks' summed residual, per token, changes from each step to the next. The
product of these ratios since the last computed step estimates the error of serving that step's residual: |1 - product|,
added up over the steps that were served. While the sum is below a threshold, and at most K steps in a row, the residual
serves. The first fifth of the steps computes.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from pabtune.methods.differences import Seen, carried, misfit_of, watch_full_runs, watching
from pabtune.methods.method import Knob, Recordings
from pabtune.records.errors import ModelError
from pabtune.runtime.deciders import COMPUTE, HOLD, Decision, DynamicPolicy, Moment
from pabtune.runtime.targets import Target

RETENTION = 0.2
"""Share of the steps, from the first, that compute."""

EPSILON = 1e-8


class MagCacheDecider:
    """MagCache's rule for one branch.

    Args:
        threshold: up to which errors add up without computing.
        most: K, the most steps that are served in a row.
        ratios: for each step, size of the residual over that of the step before.
        retained: number of steps at the beginning that compute.
    """

    def __init__(self, threshold: float, most: int, ratios: Sequence[float], retained: int) -> None:
        self._threshold, self._most, self._ratios, self._retained = threshold, most, ratios, retained
        self._reset()

    def decide(self, moment: Moment, seen: Tensor) -> Decision:
        """Adds up the estimated errors (see `Decider`)."""
        if moment.step < self._retained:
            return COMPUTE
        self._ratio *= self._ratios[moment.step]
        self._error += abs(1.0 - self._ratio)
        self._served += 1
        if self._error < self._threshold and self._served <= self._most and moment.kept:
            return HOLD
        self._reset()
        return COMPUTE

    def computed(self, moment: Moment, watched: Tensor | None) -> None:
        """Nothing to note (see `Decider`)."""

    def _reset(self) -> None:
        self._ratio, self._error, self._served = 1.0, 0.0, 0


@dataclass(frozen=True)
class MagCache:
    """MagCache, by its threshold.

    Attributes:
        most: K, the most steps that are served in a row.
    """

    most: int = 4

    name = "magcache"
    knob = Knob(name="threshold", low=0.0, high=1.0, says="sum of estimated errors up to which nothing computes")
    settings = (0.02, 0.04, 0.06, 0.12, 0.24, 0.5)
    needs: Literal["nothing", "recordings"] = "recordings"

    def misfit(self, model: Target) -> str | None:
        """Whether there are no blocks."""
        return misfit_of(model, watching(self.name, lambda _: None, point="call"))

    def calibrate(self, recordings: Recordings, settings: Sequence[float]) -> Any:
        """Ratio of sizes for each step from the second on, by transformer and branch; and the number of steps."""
        ratios: dict[tuple[str, str], dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))

        def note(now: Seen) -> None:
            if now.before is not None and now.watched is not None and now.before.watched is not None:
                size, before = (torch.linalg.norm(each.float(), dim=-1) for each in (now.watched, now.before.watched))
                found = float((size / (before + EPSILON)).mean())
                ratios[now.transformer, now.branch][now.moment.step].append(found)

        watch_full_runs(recordings, watching(self.name, note, point="call", watch="stack"))
        return {
            "steps": recordings.settings.steps,
            "ratios": [
                {
                    "transformer": key[0],
                    "branch": key[1],
                    "by_step": {str(s): float(np.mean(v)) for s, v in each.items()},
                }
                for key, each in ratios.items()
            ],
        }

    def at(self, setting: float, calibration: Any, steps: int) -> DynamicPolicy:
        """The policy of a threshold; ratios of another number of steps are carried to the nearest step."""
        ratios = {
            (each["transformer"], each["branch"]): carried(
                {int(step): ratio for step, ratio in each["by_step"].items()}, steps, calibration["steps"], 1.0
            )
            for each in calibration["ratios"]
        }
        retained = max(int(RETENTION * steps + 0.5), 1)

        def decider(transformer: str, branch: str) -> MagCacheDecider:
            if (transformer, branch) not in ratios:
                known = ", ".join("/".join(key) for key in ratios)
                raise ModelError(
                    f"{self.name} was calibrated for {known}, but the run calls {transformer}/{branch}; calibrate with the "
                    "same guidance"
                )
            return MagCacheDecider(setting, self.most, ratios[transformer, branch], retained)

        return DynamicPolicy(
            name=f"{self.name}:{setting:g}",
            steps=steps,
            decider=decider,
            point="call",
        )
