"""Time of a profiled model on several GPUs: measured times divided among them, plus predicted communication.

Sizes are those of the sites' measured outputs: communication is without padding (compute includes that of frames), and text
that attends along with the video counts as video. For the gathering of outputs only the number of messages is known.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from pabtune.catalog import CATALOG, Catalog, ModelCard
from pabtune.planning.costs.communication import (
    NOTHING,
    AttentionShape,
    Communication,
    exchanged,
    exchanged_by_heads,
)
from pabtune.planning.costs.compute import predicted_seconds
from pabtune.planning.costs.latency import predicted_latency
from pabtune.planning.layouts import busiest_share, exchanging_kind
from pabtune.planning.masks import ComputeMask
from pabtune.records.errors import PolicyError
from pabtune.records.interconnects import Interconnect
from pabtune.records.layouts import Axis, ParallelLayout
from pabtune.records.profiles import Profile


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Measurements of a profile from which a run on several GPUs is predicted.

    Attributes:
        seconds: (sites, steps) time in each site; 0 where it is not called.
        step_seconds: (steps,) time of each step.
        site_bytes: bytes of one output of each site, for all branches.
        axes: axes that can be split.
        branches: number of guidance branches that can be split: 2; 1 without guidance or with interleaved branches.
        calls: calls of the transformer in a step: one, or one for each branch.
        samples: guidance branches of a step, whether they share a call or not.
        frames: number of latent frames, if they can be split; 0 = unknown.
    """

    seconds: NDArray[np.floating]
    step_seconds: NDArray[np.floating]
    site_bytes: Sequence[float]
    axes: tuple[Axis, ...] = ("frames",)
    branches: int = 2
    calls: int = 1
    samples: int = 2
    frames: int = 0

    @property
    def is_call_per_branch(self) -> bool:
        """Whether each guidance branch has a call of its own."""
        return self.calls == self.samples

    @classmethod
    def of(cls, profile: Profile, gpus: int = 1, catalog: Catalog = CATALOG) -> Self:
        """The measurements of a profile.

        Args:
            profile: a profile of any model.
            gpus: number of GPUs that will share a video.
            catalog: cards of transformer classes.

        Raises:
            PolicyError: the time on several GPUs cannot be predicted for this model.
        """
        card = catalog.find(profile.made_for.model or "")
        return cls(
            seconds=profile.arrays["seconds"],
            step_seconds=profile.arrays["step_seconds"],
            site_bytes=profile.site_bytes,
            axes=_axes(profile, gpus, card),
            branches=_branches(profile, card),
            calls=profile.call.per_step,
            samples=profile.call.samples,
            frames=_frames(profile, card),
        )


def _axes(profile: Profile, gpus: int, card: ModelCard | None) -> tuple[Axis, ...]:
    """Axes along which a profiled model can be split and predicted.

    Args:
        profile: profile of the model.
        gpus: number of GPUs.
        card: card of its transformer's class; None without one.

    Raises:
        PolicyError: its tokens are not cut through the network, so that a profile does not tell how much work is divided.
    """
    if card is not None and card.axes:
        return card.axes
    if gpus == 1:
        return ("sequence",)
    split, pipeline = None if card is None else card.token_split, profile.provenance.get("pipeline", "")
    if split is not None and split.depends_on_pipeline and not pipeline:
        raise PolicyError(f"profile {profile.name!r} does not say which pipeline it was made with; profile again")
    configs = [*profile.made_for.config.values()] or [{}]
    objections = (
        () if split is None else tuple(each for config in configs for each in split.objections(config, pipeline))
    )
    if split is None or objections:
        why = "; ".join(dict.fromkeys(objections)) or "its card has no token split"
        raise PolicyError(
            f"the time of {profile.made_for.model} on {gpus} GPUs cannot be predicted: its tokens are not cut through the "
            f"network ({why}); measure it with `pabtune generate --gpus --compare`"
        )
    return ("sequence",)


def _is_sequential(card: ModelCard | None) -> bool:
    """Whether a model uses sequential CFG: one call per branch, whose results are read after the last."""
    return card is not None and card.guidance.order == "sequential"


def _branches(profile: Profile, card: ModelCard | None) -> int:
    """Number of guidance branches that can be split."""
    call = profile.call
    return 2 if call.samples == 2 and (call.per_step == 1 or _is_sequential(card)) else 1


def _frames(profile: Profile, card: ModelCard | None) -> int:
    """Number of latent frames of a spatial-temporal model; 0 for other models."""
    shape = profile.call.shape
    return shape[1] if card is not None and card.axes and len(shape) == 4 else 0


def sent_for(mask: ComputeMask, measured: Measured, layout: ParallelLayout) -> Communication:
    """Communication of each GPU for attention, over a run.

    Args:
        mask: the compute mask, without rows for blocks.
        measured: the measurements of the model on one GPU.
        layout: layout of the GPUs.

    Raises:
        PolicyError: no attention exchanges along the axis of the layout.
    """
    if layout.sequence == 1:
        return NOTHING
    kinds, exchanging = [site.kind for site in mask.sites], exchanging_kind(layout)
    if exchanging not in kinds:
        raise PolicyError(f"a model with {', '.join(dict.fromkeys(kinds))} has no {exchanging} attention to split")
    sent, calls = NOTHING, 1 if layout.branches > 1 else measured.calls
    called = mask.where_called(measured.seconds > 0)
    computed, halved = called.computes & ~called.calls_skipped, called.halved
    # Where the guidance difference is broadcast, a call less happens, or one has less samples.
    fewer = calls - 1 if measured.is_call_per_branch else calls
    smaller = 1.0 if measured.is_call_per_branch else 1 - 1 / measured.samples
    # Rows of whole calls come last, and exchange nothing by themselves.
    for kind, row, half, size in zip(kinds, computed, halved, measured.site_bytes, strict=False):
        if kind == exchanging:
            each = size / max(layout.branches, measured.calls)
            sent += _sent_by_site(layout, int((row & ~half).sum()) * calls, each)
            sent += _sent_by_site(layout, int((row & half).sum()) * fewer, each * smaller)
    return sent


def outputs_sent(mask: ComputeMask, measured: Measured, layout: ParallelLayout) -> Communication:
    """Communication of gathering outputs over a run: the number of messages; their bytes are not known."""
    calls = 1 if layout.branches > 1 else measured.calls
    messages = (calls if layout.sequence > 1 else 0) + (1 if layout.branches > 1 else 0)
    skipped = int(mask.halved.any(axis=0).sum()) if measured.is_call_per_branch and layout.sequence > 1 else 0
    return Communication(paper_bytes=0.0, wire_bytes=0.0, messages=messages * mask.called_steps - skipped)


def _sent_by_site(layout: ParallelLayout, calls: int, hidden_bytes: float) -> Communication:
    """Communication of attention calls, with lengths and heads taken to be divisible."""
    shape = AttentionShape.evenly_divided(layout.sequence, hidden_bytes)
    if layout.axis == "sequence":
        return exchanged_by_heads(layout.sequence, calls, shape)
    return exchanged(layout.exchange, layout.sequence, calls, shape)


def parallel_seconds(
    mask: ComputeMask, measured: Measured, layout: ParallelLayout, interconnect: Interconnect
) -> float:
    """Seconds in the transformer over a run, along the fastest axis where the layout leaves it open.

    Args:
        mask: the compute mask, without rows for blocks.
        measured: the measurements of the model on one GPU.
        layout: layout of the GPUs.
        interconnect: interconnect between them.
    """
    if layout.sequence > 1 and layout.axis is None:
        return min(parallel_seconds(mask, measured, layout.along(axis), interconnect) for axis in measured.axes)
    alone = predicted_seconds(mask, measured.seconds, measured.step_seconds, measured.samples)
    share = busiest_share(layout, measured.frames if layout.axis == "frames" else 0)
    sent = sent_for(mask, measured, layout) + outputs_sent(mask, measured, layout)
    computing = predicted_latency(alone, 0.0, share, NOTHING, interconnect)
    # Groups of processes that have samples of their own send at the same time.
    return computing + (predicted_latency(alone, 0.0, share, sent, interconnect) - computing) / layout.samples
