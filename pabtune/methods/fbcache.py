"""First-block cache (https://github.com/chengzeyi/ParaAttention): compute when the first block adds something else.

The first block computes in every step. If what it adds differs from what it added at the last computed step by less than a
threshold (relative L1), the others are not run, and what they added then serves. diffusers' `FirstBlockCache` does the
same.
"""

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor

from pabtune.methods.differences import misfit_of, relative_change
from pabtune.methods.method import Knob, Recordings
from pabtune.runtime.deciders import COMPUTE, HOLD, Decision, DynamicPolicy, Moment
from pabtune.runtime.targets import Target


class FirstBlockDecider:
    """The rule for one branch.

    Args:
        threshold: of the relative change below which nothing computes.
    """

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._seen: Tensor | None = None
        self._reference: Tensor | None = None

    def decide(self, moment: Moment, seen: Tensor) -> Decision:
        """Compares with the last computed step (see `Decider`)."""
        self._seen = seen
        if self._reference is None or relative_change(seen, self._reference) >= self._threshold:
            return COMPUTE
        return HOLD

    def computed(self, moment: Moment, watched: Tensor | None) -> None:
        """Notes what later steps are compared with (see `Decider`)."""
        self._reference = self._seen


class FirstBlockCache:
    """First-block cache, by its threshold."""

    name = "fbcache"
    knob = Knob(name="threshold", low=0.0, high=1.0, says="relative change of the first block's residual")
    settings = (0.03, 0.05, 0.08, 0.12, 0.18, 0.25)
    needs: Literal["nothing", "recordings"] = "nothing"

    def misfit(self, model: Target) -> str | None:
        """Whether there are no two blocks."""
        return misfit_of(model, self.at(0.0, None, 1))

    def calibrate(self, recordings: Recordings, settings: Sequence[float]) -> Any:
        """None: nothing is measured."""
        return None

    def at(self, setting: float, calibration: Any, steps: int) -> DynamicPolicy:
        """The policy of a threshold."""
        return DynamicPolicy(
            name=f"{self.name}:{setting:g}",
            steps=steps,
            decider=lambda *_: FirstBlockDecider(setting),
            point="front",
            front=1,
        )
