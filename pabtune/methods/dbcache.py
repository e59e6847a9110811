"""DBCache (cache-dit, https://github.com/vipshop/cache-dit): first-block cache with F blocks in front and B behind.

The first F and the last B blocks compute in every step. If what the front adds differs from what it added at the last
computed step by less than a threshold (relative L1), what lies between is not run, and what it added then serves; with an
order of 1 or 2 it is continued as TaylorSeer does. The first 8 steps compute. A threshold of 1 and more always serves
behind them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from pabtune.engines.reading.configuration import DualBlocks
from pabtune.methods.differences import misfit_of, relative_change
from pabtune.methods.method import Knob, Recordings
from pabtune.methods.taylorseer import taylor_factors
from pabtune.planning.units import blocks_of
from pabtune.runtime.deciders import COMPUTE, Decision, DynamicPolicy, Moment
from pabtune.runtime.targets import Target

FRONT = 8
"""cache-dit's F."""

SHARE = 4
"""A model of fewer than 32 blocks has one in so many in front: with F of 8 one of 8 blocks would compute everything."""

ALWAYS = 1.0

FIRST_CHANGE = 3
"""First step whose change from the computed step before cache-dit's TaylorSeer takes: before, the last residual serves."""


class DualBlockDecider:
    """DBCache's rule for one branch. Steps are those of its own transformer: one that takes over begins at 0.

    Args:
        rule: the numbers; its preset, if any, is in its mask.
    """

    def __init__(self, rule: DualBlocks) -> None:
        self._rule = rule
        ones = rule.warm_up if rule.mask is None else [*rule.mask, False].index(False)
        self._warm_up = range(0, min(rule.warm_up, ones), rule.warm_up_interval)
        self._seen: Tensor | None = None
        self._reference: Tensor | None = None
        self._calls, self._served, self._in_row, self._change = 0, 0, 0, 0.0

    def decide(self, moment: Moment, seen: Tensor) -> Decision:
        """Compares with the last computed step (see `Decider`)."""
        step, self._calls, self._seen = self._calls, self._calls + 1, seen
        if not self._may_hold(step, seen):
            return COMPUTE
        self._served, self._in_row = self._served + 1, self._in_row + 1
        first_change = FIRST_CHANGE + moment.step - step
        return Decision(
            computes=False, factors=taylor_factors(moment.kept, moment.step, self._rule.order, first_change)
        )

    def computed(self, moment: Moment, watched: Tensor | None) -> None:
        """Notes what later steps are compared with (see `Decider`)."""
        self._reference, self._in_row = self._seen, 0

    def _may_hold(self, step: int, seen: Tensor) -> bool:
        """Whether a step is held, in the order in which cache-dit asks (`can_cache`)."""
        rule = self._rule
        if step in self._warm_up or (rule.mask is not None and step < len(rule.mask) and rule.mask[step]):
            return False
        if rule.is_fixed:
            return True
        if self._served == rule.most or self._in_row == rule.most_in_row:
            return False
        if rule.most_change is not None and self._change >= rule.most_change:
            return False
        return self._is_near(seen)

    def _is_near(self, seen: Tensor) -> bool:
        if self._reference is None or self._rule.threshold <= 0:
            return False
        if self._rule.threshold >= ALWAYS:
            return True
        change = relative_change(seen, self._reference)
        self._change += change
        return change < self._rule.threshold


@dataclass(frozen=True)
class DBCache:
    """DBCache, by its threshold.

    Attributes:
        front: F; None = 8, or a quarter of the blocks where there are fewer than 32.
        back: B.
        warm_up: steps at the beginning that compute.
        most: most steps that are served in a row; None = any number.
        order: of the series that serves, 0 to 2.
    """

    front: int | None = None
    back: int = 0
    warm_up: int = 8
    most: int | None = None
    order: int = 0

    name = "dbcache"
    knob = Knob(name="residual_diff_threshold", low=0.0, high=1.0, says="relative change of the front blocks' residual")
    settings = (0.03, 0.05, 0.08, 0.12, 0.18, 0.24, 1.0)
    needs: Literal["nothing", "recordings"] = "nothing"

    def misfit(self, model: Target) -> str | None:
        """Whether nothing lies between the front and the back."""
        return misfit_of(model, self.at(0.0, self._front_of(model), 1))

    def calibrate(self, recordings: Recordings, settings: Sequence[float]) -> Any:
        """F, by the number of blocks; nothing is measured."""
        return self._front_of(recordings.target)

    def at(self, setting: float, calibration: Any, steps: int) -> DynamicPolicy:
        """The policy of a threshold."""
        rule = DualBlocks(threshold=setting, warm_up=max(self.warm_up, 1), most_in_row=self.most, order=self.order)
        return DynamicPolicy(
            name=f"{self.name}:{setting:g}",
            steps=steps,
            decider=lambda *_: DualBlockDecider(rule),
            point="front",
            front=calibration,
            back=self.back,
            history=1 + self.order,
        )

    def _front_of(self, model: Target) -> int:
        if self.front is not None:
            return self.front
        fewest = min(
            len(blocks_of([site for site in model.sites if site.transformer == name])) for name in model.transformers
        )
        return min(FRONT, max(fewest // SHARE, 1))
