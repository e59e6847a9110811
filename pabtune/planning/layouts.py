"""The layouts in which GPUs can share a video, and the axis along which a policy sends least.

Only attention along the split axis communicates, and a broadcast sends nothing. So the attention that is broadcast most should
be the one that communicates: temporal attention, with frames split, under the paper's pyramids.

The layout does not change within a call, and outputs are kept in the layout in which they were computed. Staying in another
layout after an attention would save a message only where the next attention is broadcast, whose kept output would then have
to be moved.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pabtune.planning.costs.communication import AttentionShape, Communication, exchanged
from pabtune.planning.masks import ComputeMask
from pabtune.records.errors import PolicyError
from pabtune.records.layouts import SEQUENCE_PARALLELS, Axis, ParallelLayout, SequenceParallel
from pabtune.records.sites import Kind

AXES: tuple[Axis, ...] = ("frames", "tokens")
"""Axes along which a spatial-temporal model can be split."""

EXCHANGING: Mapping[Axis, Kind] = {"frames": "temporal", "tokens": "spatial", "sequence": "full"}
"""Kind of attention that communicates when an axis is split."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Video:
    """Sizes of a video that determine the communication between GPUs.

    Attributes:
        frames: number of latent frames, T.
        tokens: number of tokens of a frame, S.
        bytes_per_token: bytes of one token's hidden state, for all samples of a call.
        heads: number of heads.
    """

    frames: int
    tokens: int
    bytes_per_token: int
    heads: int

    def attention(self, axis: Axis) -> AttentionShape:
        """Shape of the attention that communicates when an axis is split."""
        length, other = (self.frames, self.tokens) if axis == "frames" else (self.tokens, self.frames)
        return AttentionShape(length=length, other=other, bytes_per_token=self.bytes_per_token, heads=self.heads)

    def sent(self, axis: Axis, method: SequenceParallel, gpus: int, calls: int) -> Communication:
        """Communication of a number of calls of the attention along an axis."""
        return exchanged(method, gpus, calls, self.attention(axis))


def exchanging_kind(layout: ParallelLayout) -> Kind:
    """Kind of attention that communicates under a layout.

    Raises:
        PolicyError: the layout leaves its axis open.
    """
    if layout.axis is None:
        raise PolicyError(f"the layout ({layout}) must name the axis that is split: {', '.join(EXCHANGING)}")
    return EXCHANGING[layout.axis]


def busiest_share(layout: ParallelLayout, length: int) -> float:
    """Fraction of the single-GPU work done by the busiest GPU (padding included).

    Args:
        layout: layout of the GPUs.
        length: length of the split axis; 0 = unknown, taken to be divisible.
    """
    length = length or layout.sequence
    return -(-length // layout.sequence) / length / layout.branches / layout.samples


def can_share(layout: ParallelLayout, axes: Sequence[Axis], frames: int) -> bool:
    """Whether a video is long enough for a layout: models that only split frames, like Latte, need two on each GPU.

    Args:
        layout: layout of the GPUs.
        axes: axes of the model that can be split.
        frames: number of latent frames; 0 = unknown.
    """
    return tuple(axes) != ("frames",) or frames in {0, 1} or -(-frames // layout.sequence) > 1


def layouts(
    gpus: int, axes: Sequence[Axis], methods: Sequence[SequenceParallel] = SEQUENCE_PARALLELS, branches: int = 2
) -> list[ParallelLayout]:
    """All layouts in which a number of GPUs can share a video.

    Args:
        gpus: number of GPUs.
        axes: axes of the model that can be split.
        methods: methods of sequence parallelism to consider; full attention always uses Ulysses.
        branches: number of guidance branches of the model.
    """
    options = []
    for parts in (1, 2) if branches == 2 and gpus % 2 == 0 else (1,):
        if gpus == parts:
            options.append(ParallelLayout(branches=parts))
            continue
        options += [
            ParallelLayout.over(gpus, branches=parts, exchange=method, axis=axis)
            for axis in axes
            for method in (("ulysses",) if axis == "sequence" else methods)
        ]
    return options


TYPICAL_VIDEO = Video(frames=16, tokens=1024, bytes_per_token=4096, heads=16)
"""Placeholder size; the ranking of axes barely depends on it."""


def choose_axis(mask: ComputeMask, method: SequenceParallel, gpus: int, video: Video = TYPICAL_VIDEO) -> Axis:
    """The axis along which the fewest bytes are sent; frames if both are equal.

    Args:
        mask: the compute mask, without rows for blocks.
        method: method of sequence parallelism.
        gpus: number of GPUs that share the sequence.
        video: sizes of the video.
    """
    calls = mask.calls(computed=True)
    return min(AXES, key=lambda axis: video.sent(axis, method, gpus, calls.get(EXCHANGING[axis], 0)).wire_bytes)
