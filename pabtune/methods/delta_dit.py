"""Delta-DiT (https://arxiv.org/abs/2406.01125): the change that a run of blocks makes is kept, and added to a new input.

Early steps draw outlines, for which the front blocks matter: there the rear half of the blocks is left out, and its change of
a step that computed it is added in its place. Late steps draw details: there the front half is left out. Every N-th step
computes all.
"""

from collections.abc import Sequence
from typing import Any, Literal

from pabtune.methods.method import Knob, Recordings
from pabtune.records.policies import Policy
from pabtune.records.rules import Rule
from pabtune.runtime.targets import Target

GATE_SHARE = 0.5
"""Of the steps, those in which the rear blocks are left out."""


def depth_of(target: Target) -> int:
    """Number of blocks in the longest list."""
    return 1 + max((site.layer for site in target.sites if site.block), default=-1)


def delta_dit_policy(interval: int, depth: int, steps: int) -> Policy:
    """The policy for an interval.

    Args:
        interval: N, of which multiples compute all blocks.
        depth: blocks of the model, in its longest list.
        steps: of the run.
    """
    gate, half = round(GATE_SHARE * steps), depth // 2
    rear_computes = tuple(step for step in range(steps) if step % interval == 0 or step >= gate)
    front_computes = tuple(step for step in range(steps) if step % interval == 0 or step < gate)
    rules = (
        Rule(kind="stack", compute=front_computes, layers=tuple(range(half))),
        Rule(kind="stack", compute=rear_computes, layers=tuple(range(depth - half, depth))),
    )
    return Policy(name=f"delta-dit-{interval}", rules=rules)


class DeltaDiT:
    """Delta-DiT, by its interval."""

    name = "delta-dit"
    knob = Knob(name="interval", low=2, high=20, kind=int, says="N: every N-th step computes all blocks")
    settings = (2, 3, 4, 5, 6)
    needs: Literal["nothing", "recordings"] = "nothing"

    def misfit(self, model: Target) -> str | None:
        """Whether there are no two blocks."""
        return None if depth_of(model) > 1 else "it has fewer than two blocks"

    def calibrate(self, recordings: Recordings, settings: Sequence[float]) -> Any:
        """The number of blocks; nothing is measured."""
        return depth_of(recordings.target)

    def at(self, setting: float, calibration: Any, steps: int) -> Policy:
        """The policy of a setting."""
        return delta_dit_policy(round(setting), calibration, steps)
