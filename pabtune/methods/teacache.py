"""TeaCache (https://arxiv.org/abs/2411.19108): compute when the modulated input has changed enough.

The relative L1 change of the first block's modulated input from step to step, rescaled by a polynomial to that of the
output, is added up; while the sum is below a threshold, what all blocks added at the last computed step serves. The first
and the last step compute. The polynomial is of degree 4, fitted to all neighbouring steps of full runs, and taken
absolutely: some of the published ones are negative where changes are small.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from torch import Tensor

from pabtune.methods.differences import Seen, misfit_of, relative_change, watch_full_runs, watching
from pabtune.methods.method import Knob, Recordings
from pabtune.records.errors import ModelError
from pabtune.runtime.deciders import COMPUTE, HOLD, Decision, DynamicPolicy, Moment
from pabtune.runtime.targets import Target

DEGREE = 4
"""Of the polynomial."""


class TeaCacheDecider:
    """TeaCache's rule for one branch.

    Args:
        threshold: up to which rescaled changes add up without computing.
        coefficients: of the polynomial, the highest degree first.
    """

    def __init__(self, threshold: float, coefficients: Sequence[float]) -> None:
        self._threshold, self._coefficients = threshold, coefficients
        self._sum = 0.0
        self._before: Tensor | None = None

    def decide(self, moment: Moment, seen: Tensor) -> Decision:
        """Adds up changes (see `Decider`)."""
        before, self._before = self._before, seen
        if before is None or moment.is_last:
            self._sum = 0.0
            return COMPUTE
        self._sum += abs(float(np.polyval(self._coefficients, relative_change(seen, before))))
        if self._sum < self._threshold:
            return HOLD
        self._sum = 0.0
        return COMPUTE

    def computed(self, moment: Moment, watched: Tensor | None) -> None:
        """Nothing to note (see `Decider`)."""


class TeaCache:
    """TeaCache, by its threshold."""

    name = "teacache"
    knob = Knob(name="threshold", low=0.0, high=2.0, says="sum of rescaled changes up to which nothing computes")
    settings = (0.01, 0.02, 0.03, 0.05, 0.08, 0.12, 0.2)
    needs: Literal["nothing", "recordings"] = "recordings"

    def misfit(self, model: Target) -> str | None:
        """Whether there is no block with a self-attention."""
        return misfit_of(model, self.at(0.0, [0.0], 1))

    def calibrate(self, recordings: Recordings, settings: Sequence[float]) -> Any:
        """Coefficients of the polynomial, the highest degree first.

        Raises:
            ModelError: a run of one step shows no change.
        """
        changes: list[tuple[float, float]] = []

        def note(now: Seen) -> None:
            if now.before is not None and now.watched is not None and now.before.watched is not None:
                changes.append(
                    (relative_change(now.seen, now.before.seen), relative_change(now.watched, now.before.watched))
                )

        watch_full_runs(recordings, watching(self.name, note, point="attention", watch="call"))
        if not changes:
            raise ModelError("its polynomial needs runs of 2 steps and more")
        inputs, outputs = zip(*changes, strict=True)
        return np.polyfit(inputs, outputs, min(DEGREE, len(changes) - 1)).tolist()

    def at(self, setting: float, calibration: Any, steps: int) -> DynamicPolicy:
        """The policy of a threshold."""
        return DynamicPolicy(
            name=f"{self.name}:{setting:g}",
            steps=steps,
            decider=lambda *_: TeaCacheDecider(setting, calibration),
            point="attention",
        )
