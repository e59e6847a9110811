"""FORA (Fast-Forward Caching, https://arxiv.org/abs/2407.01425): every N-th step computes, the others reuse each module.

Attention and MLP outputs of every layer are kept at a step that computes, and serve as they are until the next one; what else
blocks do (norms, modulation, gates, residuals) happens in every step. Which steps compute is fixed: the multiples of N.
"""

from collections.abc import Collection, Sequence
from typing import Any, Literal

from pabtune.methods.method import Knob, Recordings
from pabtune.records.policies import Policy
from pabtune.records.rules import Rule
from pabtune.records.sites import Kind
from pabtune.runtime.targets import Target


def fora_policy(interval: int, kinds: Collection[Kind], steps: int) -> Policy:
    """The policy for an interval.

    Args:
        interval: N, of which multiples compute.
        kinds: of the model's sites.
        steps: of the run.
    """
    rules = tuple(Rule(kind=kind, range=interval, window=(0, steps), anchor="start") for kind in kinds)
    return Policy(name=f"fora-{interval}", rules=rules)


class FORA:
    """FORA, by its interval."""

    name = "fora"
    knob = Knob(name="interval", low=2, high=20, kind=int, says="N: every N-th step computes")
    settings = (2, 3, 4, 5, 6)
    needs: Literal["nothing", "recordings"] = "nothing"

    def misfit(self, model: Target) -> str | None:
        """None: every known model has modules."""
        return None

    def calibrate(self, recordings: Recordings, settings: Sequence[float]) -> Any:
        """The kinds of the model's sites; nothing is measured."""
        return sorted({site.kind for site in recordings.target.sites})

    def at(self, setting: float, calibration: Any, steps: int) -> Policy:
        """The policy of a setting."""
        return fora_policy(round(setting), calibration, steps)
