"""T-GATE (https://arxiv.org/abs/2404.02747), as the paper of PAB took it to video (https://arxiv.org/abs/2408.12588).

Before the gate step self-attention computes at every second step and cross-attention always; behind it self-attention computes
always and cross-attention never: what it put out at the gate step serves to the end.
"""

from collections.abc import Collection, Sequence
from typing import Any, Literal

from pabtune.methods.method import Knob, Recordings
from pabtune.records.policies import Policy
from pabtune.records.rules import Rule
from pabtune.records.sites import Kind
from pabtune.runtime.targets import Target

INTERVAL = 2
"""Of self-attention before the gate step, as PAB's paper ran it on Open-Sora and Latte."""

SELF_ATTENTION: tuple[Kind, ...] = ("spatial", "temporal", "full")


def tgate_policy(gate: int, kinds: Collection[Kind], steps: int) -> Policy:
    """The policy for a gate step.

    Args:
        gate: the last step in which cross-attention computes.
        kinds: of the model's sites.
        steps: of the run.
    """
    rules = [
        Rule(kind=kind, range=INTERVAL, window=(0, gate), anchor="start") for kind in SELF_ATTENTION if kind in kinds
    ]
    if gate < steps - 1:
        rules.append(Rule(kind="cross", compute=tuple(range(gate + 1))))
    return Policy(name=f"tgate-{gate}", rules=tuple(rules))


class TGATE:
    """T-GATE, by its gate step."""

    name = "tgate"
    knob = Knob(name="gate", low=0.05, high=0.95, says="share of the steps before the gate")
    settings = (0.2, 0.3, 0.4, 0.5, 0.6)
    needs: Literal["nothing", "recordings"] = "nothing"

    def misfit(self, model: Target) -> str | None:
        """Whether there is no cross-attention."""
        has_cross = any(site.kind == "cross" for site in model.sites)
        return None if has_cross else "it has no cross-attention"

    def calibrate(self, recordings: Recordings, settings: Sequence[float]) -> Any:
        """The kinds of the model's sites; nothing is measured."""
        return sorted({site.kind for site in recordings.target.sites})

    def at(self, setting: float, calibration: Any, steps: int) -> Policy:
        """The policy of a setting."""
        return tgate_policy(round(setting * steps), calibration, steps)
