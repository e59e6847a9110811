"""Time of a profiled model on several GPUs: measured times of what computes, shared, and what is exchanged over a link.

Sizes are those of the sites' measured outputs: padding is not counted in what is sent (of frames it is in what is computed),
and text that attends beside the video is taken for video. Of the messages that put outputs together only the number is known.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from pabtune.catalog import CATALOG, Catalog, ModelCard
from pabtune.planning.costs.communication import NOTHING, Communication, exchanged, shared_by_heads
from pabtune.planning.costs.compute import predicted_seconds
from pabtune.planning.costs.latency import predicted_latency
from pabtune.planning.masks import ComputeMask
from pabtune.planning.sharding import EXCHANGING, Axis, Way, busiest_share
from pabtune.records.errors import PolicyError
from pabtune.records.links import LINKS, Link
from pabtune.records.profiles import Profile


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharing:
    """How GPUs share a video.

    Attributes:
        way: how they do; each policy along the axis on which it takes least.
        link: between them.
    """

    way: Way
    link: Link

    def to_document(self) -> dict[str, Any]:
        """As JSON."""
        way = {name: getattr(self.way, name) for name in ("gpus", "branches", "parallel")}
        return {
            **way,
            "link": {key: value for key, value in self.link.to_document().items() if key != "provenance"},
        }


ALONE = Sharing(way=Way(), link=LINKS["nvlink"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What a profile measured of a model.

    Attributes:
        seconds: (sites, steps) time in each site; 0 where it is not called.
        step_seconds: (steps,) time of each step.
        site_bytes: of one output of each site, all branches together.
        axes: that can be split.
        branches: of guidance that GPUs could share: 2, or 1 without guidance, or where one branch waits for the other.
        calls: of the transformer in a step: one, or one for each branch.
        frames: of the latents, if they can be split; 0 = unknown.
    """

    seconds: NDArray[np.floating]
    step_seconds: NDArray[np.floating]
    site_bytes: Sequence[float]
    axes: tuple[Axis, ...] = ("frames",)
    branches: int = 2
    calls: int = 1
    frames: int = 0

    @classmethod
    def of(cls, profile: Profile, gpus: int = 1, catalog: Catalog = CATALOG) -> Self:
        """Of a profile.

        Args:
            profile: any.
            gpus: that will share a video.
            catalog: what is known of transformer classes.

        Raises:
            PolicyError: what so many take for the model cannot be told.
        """
        card = catalog.find(profile.made_for.model or "")
        return cls(
            seconds=profile.arrays["seconds"],
            step_seconds=profile.arrays["step_seconds"],
            site_bytes=profile.site_bytes,
            axes=_axes(profile, gpus, card),
            branches=_branches(profile, card),
            calls=profile.call.per_step,
            frames=_frames(profile, card),
        )


def _axes(profile: Profile, gpus: int, card: ModelCard | None) -> tuple[Axis, ...]:
    """Axes to choose from when the time of a profiled model on several GPUs is predicted.

    Args:
        profile: of the model.
        gpus: that share it.
        card: of its transformer's class.

    Raises:
        PolicyError: its tokens are not cut through the network: how much is shared cannot be told from a profile.
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
            f"what {gpus} GPUs take for {profile.made_for.model} is not predicted: its tokens are not cut through the whole "
            f"network ({why}); measure it with `pabtune generate --gpus --compare`"
        )
    return ("sequence",)


def _is_sequential(card: ModelCard | None) -> bool:
    """Whether guidance branches come one call after the other, and the first result is read after the last call."""
    return card is not None and card.guidance.order == "sequential"


def _branches(profile: Profile, card: ModelCard | None) -> int:
    """Guidance branches that GPUs could share."""
    call = profile.call
    return 2 if call.samples == 2 and (call.per_step == 1 or _is_sequential(card)) else 1


def _frames(profile: Profile, card: ModelCard | None) -> int:
    """Frames of the latents of a spatial-temporal model; 0 of others."""
    shape = profile.call.shape
    return shape[1] if card is not None and card.axes and len(shape) == 4 else 0


def sent_for(mask: ComputeMask, measured: Measured, way: Way) -> Communication:
    """What each GPU sends for attention over a run under a mask.

    Args:
        mask: without rows for blocks.
        measured: of the model, on one GPU.
        way: how GPUs share the video.

    Raises:
        PolicyError: no attention exchanges along the axis of the way.
    """
    if way.sequence == 1:
        return NOTHING
    kinds = [site.kind for site in mask.sites]
    if EXCHANGING[way.axis] not in kinds:
        raise PolicyError(
            f"a model with {', '.join(dict.fromkeys(kinds))} has no {EXCHANGING[way.axis]} attention to share"
        )
    sent, calls = NOTHING, 1 if way.branches > 1 else measured.calls
    called = mask.where_called(measured.seconds > 0).computes
    for kind, row, size in zip(kinds, called, measured.site_bytes, strict=True):
        if kind == EXCHANGING[way.axis]:
            sent += _sent_by_site(way, int(row.sum()) * calls, size / max(way.branches, measured.calls))
    return sent


def outputs_sent(measured: Measured, way: Way) -> Communication:
    """What putting outputs together takes over a run: messages, whose bytes are not known."""
    calls = 1 if way.branches > 1 else measured.calls
    together = (calls if way.sequence > 1 else 0) + (1 if way.branches > 1 else 0)
    return Communication(paper_bytes=0.0, wire_bytes=0.0, messages=together * len(measured.step_seconds))


def _sent_by_site(way: Way, calls: int, output_bytes: float) -> Communication:
    """Of so many calls of an attention, with lengths and heads that the GPUs divide."""
    gpus = way.sequence
    if way.axis == "sequence":
        return shared_by_heads(gpus, calls, gpus, 0, output_bytes / gpus, gpus)
    return exchanged(way.parallel, gpus, calls, gpus, gpus, output_bytes / gpus**2, gpus)


def seconds_in(mask: ComputeMask, measured: Measured, way: Way, link: Link) -> float:
    """Seconds in the transformer over a run.

    Args:
        mask: without rows for blocks.
        measured: of the model, on one GPU.
        way: how GPUs share the video.
        link: between them.
    """
    alone = predicted_seconds(mask, measured.seconds, measured.step_seconds)
    share = busiest_share(way, measured.frames if way.axis == "frames" else 0)
    return predicted_latency(alone, 0.0, share, sent_for(mask, measured, way) + outputs_sent(measured, way), link)


def shared_seconds(mask: ComputeMask, measured: Measured, sharing: Sharing) -> float:
    """Seconds in the transformer over a run, split along the axis that takes least.

    Args:
        mask: without rows for blocks.
        measured: of the model, on one GPU.
        sharing: how GPUs share the video.
    """
    along = [replace(sharing.way, axis=axis) for axis in measured.axes]
    return min(seconds_in(mask, measured, way, sharing.link) for way in along)
