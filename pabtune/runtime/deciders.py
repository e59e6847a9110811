"""Policies that decide in a run, call by call: what a decider is, what it is told, what it answers.

A decider belongs to one branch of one transformer in one denoising loop. In each call it is asked once, and answers whether
the call computes, or what it is served. Knows nothing of hooks.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor

from pabtune.planning.schedules import NoiseSchedule

Point = Literal["call", "attention", "front"]
"""When a decider is asked, and what it sees. `call`: before the call, its first tensor (the latents). `attention`: at the
first attention, whose input is the modulated input of the first block. `front`: after the first blocks, the residual that
they have added."""

Unit = Literal["stack", "call"]
"""What is kept and served. `stack`: the sum of the residuals of the blocks. `call`: output less input of the whole call."""

Watch = Literal["nothing", "stack", "call", "site"]
"""What a decider is told after a call that computed. `stack`: the sum of residuals of the blocks. `call`: the output. `site`:
the output of the site that `DynamicPolicy.site` names."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What a call does.

    Attributes:
        computes: whether it computes.
        factors: what is served is the last kept value plus, for each factor, the factor times one of its last changes, the
            latest first.
    """

    computes: bool
    factors: tuple[float, ...] = ()


COMPUTE, HOLD = Decision(computes=True), Decision(computes=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """A call that a decider is asked about.

    Attributes:
        step: index of the denoising step.
        schedule: steps and noise levels of the loop.
        kept: steps of what is kept, the latest last; nothing can be served while it is empty.
    """

    step: int
    schedule: NoiseSchedule
    kept: tuple[int, ...] = ()

    @property
    def is_last(self) -> bool:
        """Whether it is the last step."""
        return self.step == self.schedule.steps - 1


class Decider(Protocol):
    """Decides for the calls of one branch, in their order."""

    def decide(self, moment: Moment, seen: Tensor) -> Decision:
        """What a call does. It computes in any case if nothing is kept, or less than the answer's factors need.

        Args:
            moment: the call.
            seen: what the policy's point of decision shows. It must not be changed.
        """

    def computed(self, moment: Moment, watched: Tensor | None) -> None:
        """Called after a call that was asked about and computed, also if the answer was another.

        Args:
            moment: the call.
            watched: what the policy watches; None = nothing.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class DynamicPolicy:
    """A policy that decides in each call.

    Attributes:
        name: for people.
        decider: makes the decider of a branch; given the names of its transformer and of the branch.
        point: when deciders are asked.
        unit: what is kept and served.
        front: blocks at the beginning that always compute.
        back: blocks at the end that always compute.
        history: how many values are kept.
        watch: what deciders are told of computed calls.
        site: of the watch `site`: its path in the transformer.
        steps: number of denoising steps that it is for; None = any.
        is_shared: whether further calls of a transformer in a step, of other branches, do as its first did.
    """

    name: str
    decider: Callable[[str, str], Decider]
    point: Point
    unit: Unit = "stack"
    front: int = 0
    back: int = 0
    history: int = 1
    watch: Watch = "nothing"
    site: str = ""
    is_shared: bool = False
    steps: int | None = None

    @property
    def variants(self) -> Mapping[str, object]:
        """None: it reacts to contents itself (see `Policy.variants`)."""
        return {}
