"""EasyCache (https://arxiv.org/abs/2507.02860): compute when the output is expected to have changed enough.

Between the last two computed steps the output changed k times as much as the input. In later steps k times the input's
change from step to step, over the size of the last computed output, is added up; while the sum is below a threshold the
call does not happen, and its output is its input plus the difference of the two at the last computed step. The first fifth
of the steps (10 of 50) and the last step compute. Of several calls in a step the first decides, in Wan the conditional one.
"""

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor

from pabtune.methods.method import Knob, Recordings
from pabtune.runtime.deciders import COMPUTE, HOLD, Decision, DynamicPolicy, Moment
from pabtune.runtime.payloads import copied
from pabtune.runtime.targets import Target

WARM_UP = 0.2
"""Share of the steps, from the first, that compute."""


class EasyCacheDecider:
    """EasyCache's rule for one branch.

    Args:
        threshold: up to which expected changes add up without computing.
        warm_up: number of steps at the beginning that compute.
    """

    def __init__(self, threshold: float, warm_up: int) -> None:
        self._threshold, self._warm_up = threshold, warm_up
        self._sum = 0.0
        self._rate: Tensor | None = None
        self._input: Tensor | None = None
        self._computed_input: Tensor | None = None
        self._computed_output: Tensor | None = None

    def decide(self, moment: Moment, seen: Tensor) -> Decision:
        """Adds up expected changes (see `Decider`)."""
        before, self._input = self._input, copied(seen)
        if moment.step < self._warm_up or moment.is_last or before is None or self._rate is None:
            self._sum = 0.0
            return COMPUTE
        assert self._computed_output is not None
        expected = self._rate * (seen - before).abs().mean() / self._computed_output.abs().mean()
        self._sum += float(expected)
        if self._sum < self._threshold:
            return HOLD
        self._sum = 0.0
        return COMPUTE

    def computed(self, moment: Moment, watched: Tensor | None) -> None:
        """Measures the rate between this and the last computed step (see `Decider`)."""
        assert watched is not None
        assert self._input is not None
        if self._computed_output is not None and self._computed_input is not None:
            output_change = (watched - self._computed_output).abs().mean()
            self._rate = output_change / (self._input - self._computed_input).abs().mean()
        self._computed_input, self._computed_output = self._input, copied(watched)


class EasyCache:
    """EasyCache, by its threshold."""

    name = "easycache"
    knob = Knob(
        name="threshold", low=0.0, high=1.0, says="sum of expected relative changes up to which nothing computes"
    )
    settings = (0.01, 0.015, 0.025, 0.04, 0.06, 0.1, 0.2)
    needs: Literal["nothing", "recordings"] = "nothing"

    def misfit(self, model: Target) -> str | None:
        """None: that an output is unlike its input shows in the first call only, which then says so."""
        return None

    def calibrate(self, recordings: Recordings, settings: Sequence[float]) -> Any:
        """None: nothing is measured."""
        return None

    def at(self, setting: float, calibration: Any, steps: int) -> DynamicPolicy:
        """The policy of a threshold."""
        warm_up = max(round(WARM_UP * steps), 1)
        return DynamicPolicy(
            name=f"{self.name}:{setting:g}",
            steps=steps,
            decider=lambda *_: EasyCacheDecider(setting, warm_up),
            point="call",
            unit="call",
            watch="call",
            is_shared=True,
        )
