"""Pyramid Attention Broadcast (https://arxiv.org/abs/2408.12588): attention broadcasts, each kind over a range of its own.

The digits are the ranges of spatial, temporal and cross-attention, between the noise levels that the paper broadcasts in.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any, Literal

from pabtune.methods.method import Knob, Recordings
from pabtune.planning.presets import PRESETS
from pabtune.records.policies import Policy
from pabtune.records.sites import Kind
from pabtune.runtime.targets import Target

ATTENTION: tuple[Kind, ...] = ("spatial", "temporal", "full", "cross")


def pab_policy(digits: int, kinds: Collection[Kind]) -> Policy:
    """The policy for three digits, of the kinds that the model has.

    Args:
        digits: 246, 357 or 579.
        kinds: of the model's sites; full attention has the range of spatial attention, as the reference gives it in CogVideoX.
    """
    preset = PRESETS[f"pab{digits}"]
    spatial = next(rule for rule in preset.rules if rule.kind == "spatial")
    rules = tuple(rule for rule in (*preset.rules, replace(spatial, kind="full")) if rule.kind in kinds)
    return replace(preset, rules=rules)


class PAB:
    """PAB, by the digits of its ranges."""

    name = "pab"
    knob = Knob(
        name="digits",
        low=246,
        high=579,
        kind=int,
        only=(246, 357, 579),
        says="ranges of spatial, temporal and cross-attention",
    )
    settings = (246, 357, 579)
    needs: Literal["nothing", "recordings"] = "nothing"

    def misfit(self, model: Target) -> str | None:
        """Whether there is no attention."""
        has_attention = any(site.kind in ATTENTION for site in model.sites)
        return None if has_attention else "it has no attention that is known"

    def calibrate(self, recordings: Recordings, settings: Sequence[float]) -> Any:
        """The kinds of the model's sites; nothing is measured."""
        return sorted({site.kind for site in recordings.target.sites})

    def at(self, setting: float, calibration: Any, steps: int) -> Policy:
        """The policy of a setting."""
        return pab_policy(round(setting), calibration)
