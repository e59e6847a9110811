"""TaylorSeer (https://arxiv.org/abs/2503.06923): every N-th step computes, the others extrapolate each module's output.

The first steps compute, then every N-th. In between, the outputs of attention and MLPs are those of the last computed step
plus its differences to the computed steps before, continued as a Taylor series over the number of steps. As cache-dit does
it, the series is of the summed residual of all blocks instead, which holds a few tensors and not some for each module.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from pabtune.methods.method import Knob, Recordings
from pabtune.records.policies import MadeFor, Policy
from pabtune.records.rules import Rule
from pabtune.records.sites import Kind
from pabtune.runtime.targets import Target

ENHANCED = 3
"""Steps at the beginning that compute."""


def taylor_factors(computed: Sequence[int], step: int, order: int, first_change: int = 0) -> tuple[float, ...]:
    """Factors of the last changes in the series, the latest first (see `Rule.factors`).

    Differences are divided by the steps that they span, those of differences by the later span.

    Args:
        computed: the steps that computed, rising.
        step: that is served, behind the last of them.
        order: of the series, 0 to 2; lower where too few steps computed.
        first_change: first step whose change from the computed step before is taken.
    """
    ahead = step - computed[-1]
    spans = [later - earlier for earlier, later in pairwise(computed) if later >= first_change]
    if order == 0 or not spans:
        return ()
    if order == 1 or len(spans) == 1:
        return (ahead / spans[-1],)
    second = ahead**2 / (2 * spans[-1])
    return (ahead / spans[-1] + second / spans[-1], -second / spans[-2])


def taylor_policy(name: str, kinds: Sequence[Kind], computed: Sequence[int], steps: int, order: int) -> Policy:
    """The policy that computes at some steps and extrapolates in between.

    Args:
        name: of the policy.
        kinds: of the sites that are extrapolated.
        computed: the steps that compute, rising from 0.
        steps: of the run.
        order: of the series, 0 to 2.
    """
    if len(computed) == steps:
        return Policy(name=name)
    factors = tuple(
        () if step in computed else taylor_factors(computed[: bisect_right(computed, step)], step, order)
        for step in range(steps)
    )
    rules = tuple(
        Rule(
            kind=kind, compute=tuple(computed), payload="scaled" if order else "hold", factors=factors if order else ()
        )
        for kind in kinds
    )
    return Policy(name=name, rules=rules, made_for=MadeFor(steps=steps))


@dataclass(frozen=True)
class TaylorSeer:
    """TaylorSeer, by its interval.

    Attributes:
        order: of the series, 0 to 2.
        unit: what is extrapolated: each module's output, as the paper does, or the blocks' summed residual.
    """

    order: int = 1
    unit: Literal["modules", "stack"] = "modules"

    knob = Knob(name="interval", low=1, high=20, says="N: every N-th step computes", kind=int)
    settings = (2, 3, 4, 5, 6)
    needs: Literal["nothing", "recordings"] = "nothing"

    @property
    def name(self) -> str:
        """`taylorseer`, or `taylorseer-stack`."""
        return "taylorseer" if self.unit == "modules" else "taylorseer-stack"

    def misfit(self, model: Target) -> str | None:
        """Whether there are no blocks."""
        if self.unit == "stack" and not any(site.block for site in model.sites):
            return "its card names no blocks"
        return None

    def calibrate(self, recordings: Recordings, settings: Sequence[float]) -> Any:
        """Kinds of the model's sites; nothing is measured."""
        return sorted({site.kind for site in recordings.target.sites}) if self.unit == "modules" else ["stack"]

    def at(self, setting: float, calibration: Any, steps: int) -> Policy:
        """The policy of an interval."""
        interval = max(round(setting), 1)
        computed = (*range(min(ENHANCED, steps)), *range(ENHANCED - 1 + interval, steps, interval))
        return taylor_policy(f"{self.name}:{interval}", calibration, computed, steps, self.order)
