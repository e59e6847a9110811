"""Time of a profiled model on several GPUs: measured times of what computes, shared, and what is exchanged over a link.

Sizes are those of the sites' measured outputs, so that padding is not counted.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pabtune.planning.costs.communication import MESSAGES, NOTHING, Communication
from pabtune.planning.costs.compute import predicted_seconds
from pabtune.planning.costs.latency import predicted_latency
from pabtune.planning.masks import ComputeMask
from pabtune.planning.sharding import EXCHANGING, Axis, Way
from pabtune.records.errors import PolicyError
from pabtune.records.links import LINKS, Link
from pabtune.records.sites import Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharing:
    """How GPUs share a video.

    Attributes:
        way: how they do.
        link: between them.
        axes: of the model that can be split; each policy is split along the one that takes least.
    """

    way: Way
    link: Link
    axes: tuple[Axis, ...] = ("frames",)

    def to_document(self) -> dict[str, Any]:
        """As JSON."""
        way = {name: getattr(self.way, name) for name in ("gpus", "branches", "parallel")}
        return {
            **way,
            "axes": list(self.axes),
            "link": {key: value for key, value in self.link.to_document().items() if key != "provenance"},
        }


ALONE = Sharing(way=Way(), link=LINKS["nvlink"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What a profile measured of a model.

    Attributes:
        seconds: (sites, steps) time in each site.
        step_seconds: (steps,) time of each step.
        site_bytes: of one output of each site, all branches together.
    """

    seconds: NDArray[np.floating]
    step_seconds: NDArray[np.floating]
    site_bytes: Sequence[float]


def exchanging_kind(kinds: Sequence[Kind], way: Way) -> Kind:
    """The attention that exchanges.

    Raises:
        PolicyError: a model has none that could.
    """
    for kind in (EXCHANGING[way.axis], "full"):
        if kind in kinds:
            return kind
    raise PolicyError(f"a model with {', '.join(dict.fromkeys(kinds))} has no attention that several GPUs can share")


def sent_for(mask: ComputeMask, site_bytes: Sequence[float], way: Way) -> Communication:
    """What each GPU sends over a run under a mask.

    Args:
        mask: without rows for blocks.
        site_bytes: of one output of each site, all branches together.
        way: how GPUs share the video.
    """
    if way.sequence == 1:
        return NOTHING
    kind = exchanging_kind([site.kind for site in mask.sites], way)
    own = [index for index, site in enumerate(mask.sites) if site.kind == kind]
    calls = mask.compute[own].sum(axis=1)
    output = float(calls @ np.asarray(site_bytes, dtype=float)[own]) / way.branches
    # Full attention sends queries, keys and values in one message, and as much as four hidden states in all.
    messages, states = (2, 4) if kind == "full" else (MESSAGES[way.parallel], MESSAGES[way.parallel])
    part = 1 if way.parallel == "megatron-sp" and kind != "full" else way.sequence
    return Communication(
        paper_bytes=states * output / part,
        wire_bytes=states * output / part * (way.sequence - 1) / way.sequence,
        messages=messages * int(calls.sum()),
    )


def shared_seconds(mask: ComputeMask, measured: Measured, sharing: Sharing) -> float:
    """Seconds in the transformer over a run, split along the axis that takes least.

    Args:
        mask: without rows for blocks.
        measured: of the model, on one GPU.
        sharing: how GPUs share the video.
    """
    alone = predicted_seconds(mask, measured.seconds, measured.step_seconds)
    sent = [sent_for(mask, measured.site_bytes, replace(sharing.way, axis=axis)) for axis in sharing.axes]
    return min(predicted_latency(alone, 0.0, sharing.way.gpus, each, sharing.link) for each in sent)
