"""The layouts in which GPUs can share a video, and the axis along which a policy sends least.

Attention along the split axis exchanges, the other does not, and what a policy broadcasts sends nothing. So the attention
that is broadcast most should be the one that exchanges: temporal attention, with frames split, under the paper's pyramids.

The layout is not changed within a call. Outputs are kept in the layout that they were computed in: to stay in another one
after an attention would save a message only where the next one is broadcast, and then what is kept has to be moved.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pabtune.planning.costs.communication import AttentionShape, Communication, exchanged
from pabtune.planning.masks import ComputeMask
from pabtune.records.errors import PolicyError
from pabtune.records.layouts import SEQUENCE_PARALLELS, Axis, ParallelLayout, SequenceParallel
from pabtune.records.sites import Kind

AXES: tuple[Axis, ...] = ("frames", "tokens")
"""Between which a spatial-temporal model may leave a choice."""

EXCHANGING: Mapping[Axis, Kind] = {"frames": "temporal", "tokens": "spatial", "sequence": "full"}
"""Attention that exchanges where an axis is split."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Video:
    """Sizes that determine what GPUs send.

    Attributes:
        frames: T, frames of the latents.
        tokens: S, tokens of a frame.
        bytes_per_token: bytes of one token's hidden state, all samples of a call together.
        heads: number of heads.
    """

    frames: int
    tokens: int
    bytes_per_token: int
    heads: int

    def attention(self, axis: Axis) -> AttentionShape:
        """Shape of the attention that exchanges where an axis is split."""
        length, other = (self.frames, self.tokens) if axis == "frames" else (self.tokens, self.frames)
        return AttentionShape(length=length, other=other, bytes_per_token=self.bytes_per_token, heads=self.heads)

    def sent(self, axis: Axis, method: SequenceParallel, gpus: int, calls: int) -> Communication:
        """Communication of a number of calls of the attention that exchanges."""
        return exchanged(method, gpus, calls, self.attention(axis))


def exchanging_kind(layout: ParallelLayout) -> Kind:
    """Kind of attention that exchanges under a layout.

    Raises:
        PolicyError: the layout leaves its axis open.
    """
    if layout.axis is None:
        raise PolicyError(f"the layout ({layout}) must name the axis that is split: {', '.join(EXCHANGING)}")
    return EXCHANGING[layout.axis]


def busiest_share(layout: ParallelLayout, length: int) -> float:
    """Fraction of the single-GPU work done by the busiest GPU (padding included).

    Args:
        layout: how the GPUs share the video.
        length: places along the split axis; 0 = unknown, taken to be divisible.
    """
    length = length or layout.sequence
    return -(-length // layout.sequence) / length / layout.branches / layout.samples


def can_share(layout: ParallelLayout, axes: Sequence[Axis], frames: int) -> bool:
    """Whether a video is long enough: models with frames alone, like Latte, need two frames on each GPU.

    Args:
        layout: how the GPUs would share it.
        axes: axes of the model that can be split.
        frames: frames of its latents; 0 = unknown.
    """
    return tuple(axes) != ("frames",) or frames in {0, 1} or -(-frames // layout.sequence) > 1


def layouts(
    gpus: int, axes: Sequence[Axis], methods: Sequence[SequenceParallel] = SEQUENCE_PARALLELS, branches: int = 2
) -> list[ParallelLayout]:
    """All layouts in which a number of GPUs can share a video.

    Args:
        gpus: number of GPUs.
        axes: axes of the model that can be split.
        methods: how its attention may exchange; full attention exchanges by heads only.
        branches: guidance branches of the model.
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
    """The axis along which the fewest bytes are sent; frames if both send the same.

    Args:
        mask: the compute mask, without rows for blocks.
        method: how attention exchanges.
        gpus: number of GPUs that share the sequence.
        video: sizes of the video.
    """
    calls = mask.calls(computed=True)
    return min(AXES, key=lambda axis: video.sent(axis, method, gpus, calls.get(EXCHANGING[axis], 0)).wire_bytes)
