"""AdaCache (https://arxiv.org/abs/2411.02397): the faster a layer's attention changes, the sooner the next step computes.

At a computed step the output of one attention in the middle of the network is compared with that of the last computed step
(relative L1, over the number of steps between the two). A table says, by that change, after how many steps the next one
computes; until then what all blocks added serves. The first step and the last two compute. The published tables are for 30
and 100 steps. Without the paper's regularisation by motion.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from torch import Tensor

from pabtune.methods.differences import misfit_of, relative_change
from pabtune.methods.method import Knob, Recordings
from pabtune.planning.units import blocks_of
from pabtune.runtime.deciders import COMPUTE, HOLD, Decision, DynamicPolicy, Moment
from pabtune.runtime.targets import Target

Table = Mapping[float, int]
"""Steps to the next computed one, by the change below which they are taken; above the last, `SLOWEST`."""

TABLES: Mapping[int, tuple[Table, int]] = {
    30: ({0.08: 6, 0.16: 5, 0.24: 4, 0.32: 3, 0.40: 2}, 1),
    100: ({0.03: 12, 0.05: 10, 0.07: 8, 0.09: 6, 0.11: 4}, 3),
}
"""By number of steps: the published tables, and the rate above their last change."""

MONITORED = ("temporal", "full", "spatial")
"""Kinds of attention of which the first that a model has is looked at: the paper's is temporal."""


class AdaCacheDecider:
    """AdaCache's rule for one branch.

    Args:
        table: steps to the next computed one, by change.
        otherwise: the same above the last change.
    """

    def __init__(self, table: Table, otherwise: int) -> None:
        self._table, self._otherwise = table, otherwise
        self._next, self._last = 1, 0
        self._before: Tensor | None = None

    def decide(self, moment: Moment, seen: Tensor) -> Decision:
        """Computes when the time has come (see `Decider`)."""
        is_due = moment.step >= self._next or moment.step >= moment.schedule.steps - 2
        return COMPUTE if is_due else HOLD

    def computed(self, moment: Moment, watched: Tensor | None) -> None:
        """Looks up when the next step computes (see `Decider`)."""
        assert watched is not None
        rate = 1
        if self._before is not None:
            change = relative_change(watched, self._before) / (moment.step - self._last)
            rate = next((steps for bound, steps in self._table.items() if change < bound), self._otherwise)
        self._before, self._last, self._next = watched, moment.step, moment.step + rate


class AdaCache:
    """AdaCache, by the scale of its table."""

    name = "adacache"
    knob = Knob(name="scale", low=0.0, high=10.0, says="factor of the changes in the published table; 1 = as published")
    settings = (0.05, 0.1, 0.15, 0.25, 0.5, 1.0)
    needs: Literal["nothing", "recordings"] = "nothing"

    def misfit(self, model: Target) -> str | None:
        """Whether there are no blocks, no attention, or several transformers."""
        if len(model.transformers) > 1:
            return "it looks at one layer, but the model has several transformers"
        if not any(site.kind in MONITORED and site.block for site in model.sites):
            return "no block has a self-attention"
        return misfit_of(model, self.at(0.0, monitored_path(model), 30))

    def calibrate(self, recordings: Recordings, settings: Sequence[float]) -> Any:
        """Path of the attention that is looked at; nothing is measured."""
        return monitored_path(recordings.target)

    def at(self, setting: float, calibration: Any, steps: int) -> DynamicPolicy:
        """The policy of a scale: with 0 everything computes."""
        table, otherwise = TABLES[min(TABLES, key=lambda each: abs(each - steps))]
        scaled = {bound * setting: rate for bound, rate in table.items()} if setting else {}
        return DynamicPolicy(
            name=f"{self.name}:{setting:g}",
            steps=steps,
            decider=lambda *_: AdaCacheDecider(scaled, otherwise if setting else 1),
            point="call",
            watch="site",
            site=calibration,
        )


def monitored_path(model: Target) -> str:
    """Path of the attention in the middle block: layer 13 of 28."""
    kind = next(each for each in MONITORED if any(site.kind == each for site in model.sites))
    sites = [site for site in model.sites if site.kind == kind]
    blocks = blocks_of(sites)
    middle = blocks[(len(blocks) - 1) // 2].path
    return next(site.path for site in sites if site.block == middle)
