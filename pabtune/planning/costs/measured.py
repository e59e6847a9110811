"""Time of a profiled model on several GPUs: measured times of what computes, shared, and what is exchanged.

Sizes are those of the sites' measured outputs: padding is not counted in what is sent (of frames it is in what is computed),
and text that attends beside the video counts as video. Of the messages that gather outputs only the number is known.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from pabtune.planning.costs.communication import (
    NOTHING,
    AttentionShape,
    Communication,
    exchanged,
    exchanged_by_heads,
)
from pabtune.planning.costs.compute import predicted_seconds
from pabtune.planning.costs.latency import predicted_latency
from pabtune.planning.masks import ComputeMask
from pabtune.planning.sharding import AXES_OF, IN_TURNS, are_tokens_cut, busiest_share, exchanging_kind
from pabtune.records.errors import PolicyError
from pabtune.records.interconnects import Interconnect
from pabtune.records.layouts import Axis, ParallelLayout
from pabtune.records.profiles import Profile


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Measurements of a profile that predict a run on several GPUs.

    Attributes:
        seconds: (sites, steps) time in each site; 0 where it is not called.
        step_seconds: (steps,) time of each step.
        site_bytes: bytes of one output of each site, all branches together.
        axes: axes that can be split.
        branches: guidance branches that GPUs could share: 2, or 1 without guidance, or where one branch waits for the other.
        calls: calls of the transformer in a step: one, or one for each branch.
        frames: frames of the latents, if they can be split; 0 = unknown.
    """

    seconds: NDArray[np.floating]
    step_seconds: NDArray[np.floating]
    site_bytes: Sequence[float]
    axes: tuple[Axis, ...] = ("frames",)
    branches: int = 2
    calls: int = 1
    frames: int = 0

    @classmethod
    def of(cls, profile: Profile, gpus: int = 1) -> Self:
        """The measurements of a profile.

        Args:
            profile: any profile.
            gpus: number of GPUs that will share a video.

        Raises:
            PolicyError: the time of several GPUs cannot be predicted for the model.
        """
        return cls(
            seconds=profile.arrays["seconds"],
            step_seconds=profile.arrays["step_seconds"],
            site_bytes=profile.site_bytes,
            axes=_axes(profile, gpus),
            branches=_branches(profile),
            calls=_calls(profile),
            frames=_frames(profile),
        )


def _axes(profile: Profile, gpus: int) -> tuple[Axis, ...]:
    """Axes to choose from when the time of a profiled model on several GPUs is predicted.

    Args:
        profile: profile of the model.
        gpus: number of GPUs.

    Raises:
        PolicyError: its tokens are not cut through the entire network: a profile does not tell how much is shared.
    """
    name, pipeline = profile.made_for.model or "", profile.provenance.get("pipeline", "")
    if gpus == 1 or name in AXES_OF:
        return AXES_OF.get(name, ("sequence",))
    if name == "SkyReelsV2Transformer3DModel" and not pipeline:
        raise PolicyError(f"profile {profile.name!r} does not say which pipeline it was made with; profile again")
    if not all(are_tokens_cut(name, config, pipeline) for config in (*profile.made_for.config.values(), {})):
        raise PolicyError(
            f"what {gpus} GPUs take for {name} is not predicted: its tokens are not cut through the whole network; measure "
            "it with `pabtune generate --gpus --compare`"
        )
    return ("sequence",)


def _branches(profile: Profile) -> int:
    """Guidance branches that GPUs could share."""
    call = profile.call
    if call is None:
        is_guided = len(profile.branches) > 1 or any("uncond" in name for name in profile.branches)
        may_be_split = len(profile.branches) == 1 or profile.made_for.model in (*IN_TURNS, *AXES_OF)
        return 2 if is_guided and may_be_split else 1
    return 2 if call.samples == 2 and (call.per_step == 1 or profile.made_for.model in IN_TURNS) else 1


def _calls(profile: Profile) -> int:
    """Calls of the transformer in a step."""
    if profile.call is not None:
        return profile.call.per_step
    return _branches(profile) if profile.made_for.model in IN_TURNS else 1


def _frames(profile: Profile) -> int:
    """Frames of the latents of a spatial-temporal model; 0 of others, and if unknown."""
    is_known = profile.call is not None and profile.made_for.model in AXES_OF and len(profile.call.shape) == 4
    return profile.call.shape[1] if is_known and profile.call is not None else 0


def sent_for(mask: ComputeMask, measured: Measured, layout: ParallelLayout) -> Communication:
    """Communication of each GPU for attention, over a run.

    Args:
        mask: the compute mask, without rows for blocks.
        measured: the measurements of the model on one GPU.
        layout: how GPUs share the video.

    Raises:
        PolicyError: no attention exchanges along the axis of the layout.
    """
    if layout.sequence == 1:
        return NOTHING
    kinds, exchanging = [site.kind for site in mask.sites], exchanging_kind(layout)
    if exchanging not in kinds:
        raise PolicyError(f"a model with {', '.join(dict.fromkeys(kinds))} has no {exchanging} attention to share")
    sent, calls = NOTHING, 1 if layout.branches > 1 else measured.calls
    called = mask.compute & (measured.seconds > 0)
    for kind, row, size in zip(kinds, called, measured.site_bytes, strict=True):
        if kind == exchanging:
            sent += _sent_by_site(layout, int(row.sum()) * calls, size / max(layout.branches, measured.calls))
    return sent


def outputs_sent(measured: Measured, layout: ParallelLayout) -> Communication:
    """Communication of gathering outputs over a run: the number of messages; their bytes are not known."""
    calls = 1 if layout.branches > 1 else measured.calls
    messages = (calls if layout.sequence > 1 else 0) + (1 if layout.branches > 1 else 0)
    return Communication(paper_bytes=0.0, wire_bytes=0.0, messages=messages * len(measured.step_seconds))


def _sent_by_site(layout: ParallelLayout, calls: int, hidden_bytes: float) -> Communication:
    """Communication of a number of calls of an attention whose lengths and heads the GPUs divide."""
    shape = AttentionShape.evenly_divided(layout.sequence, hidden_bytes)
    if layout.axis == "sequence":
        return exchanged_by_heads(layout.sequence, calls, shape)
    return exchanged(layout.exchange, layout.sequence, calls, shape)


def parallel_seconds(
    mask: ComputeMask, measured: Measured, layout: ParallelLayout, interconnect: Interconnect
) -> float:
    """Seconds in the transformer over a run; where the layout leaves its axis open, along the fastest axis.

    Args:
        mask: the compute mask, without rows for blocks.
        measured: the measurements of the model on one GPU.
        layout: how GPUs share the video.
        interconnect: between them.
    """
    if layout.sequence > 1 and layout.axis is None:
        return min(parallel_seconds(mask, measured, layout.along(axis), interconnect) for axis in measured.axes)
    alone = predicted_seconds(mask, measured.seconds, measured.step_seconds)
    share = busiest_share(layout, measured.frames if layout.axis == "frames" else 0)
    sent = sent_for(mask, measured, layout) + outputs_sent(measured, layout)
    return predicted_latency(alone, 0.0, share, sent, interconnect)
