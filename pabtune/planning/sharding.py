"""How GPUs can share a video, and of several axes the one whose attention then sends least.

Attention along the split axis exchanges, the other does not, and what a policy broadcasts sends nothing. So the attention
that is broadcast most should be the one that exchanges: temporal attention, with frames split, under the paper's pyramids.

The layout is not changed within a call. Outputs are kept in the layout that they were computed in: to stay in another one
after an attention would save a message only where the next one is broadcast, and then what is kept has to be moved.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pabtune.planning.costs.communication import PARALLELS, Communication, Parallel, exchanged
from pabtune.planning.masks import ComputeMask
from pabtune.records.errors import PolicyError
from pabtune.records.sites import Kind

Axis = Literal["frames", "tokens", "sequence"]
"""Frames of the latents, tokens of each frame, or under full attention the tokens of the whole video."""

AXES: tuple[Axis, ...] = ("frames", "tokens")
"""Between which a spatial-temporal model may leave a choice."""

EXCHANGING: Mapping[Axis, Kind] = {"frames": "temporal", "tokens": "spatial", "sequence": "full"}
"""Attention that exchanges where an axis is split."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Video:
    """Sizes that what is sent depends on.

    Attributes:
        frames: T, of the latents.
        tokens: S, of a frame.
        bytes_per_token: of the hidden state, all samples of a call together.
        heads: of an attention.
    """

    frames: int
    tokens: int
    bytes_per_token: int
    heads: int

    def sent(self, axis: Axis, parallel: Parallel, gpus: int, calls: int) -> Communication:
        """What the attention that exchanges sends over so many calls of it."""
        along, other = (self.frames, self.tokens) if axis == "frames" else (self.tokens, self.frames)
        return exchanged(parallel, gpus, calls, along, other, self.bytes_per_token, self.heads)


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How GPUs share a video.

    Attributes:
        gpus: in all.
        branches: parts into which guidance branches are split.
        parallel: how attention along the split axis exchanges.
        axis: that is split over the GPUs of a branch.
    """

    gpus: int = 1
    branches: int = 1
    parallel: Parallel = "dsp"
    axis: Axis = "frames"

    def __post_init__(self) -> None:
        if self.gpus < 1 or self.gpus % self.branches:
            raise PolicyError(f"{self.gpus} GPUs cannot share {self.branches} guidance branches")

    @property
    def sequence(self) -> int:
        """GPUs that share the sequence of a branch."""
        return self.gpus // self.branches

    def __str__(self) -> str:
        if self.gpus == 1:
            return "alone"
        branches = "a guidance branch to each half" if self.branches > 1 else ""
        by = (
            "tokens split over {}, attention by heads"
            if self.axis == "sequence"
            else f"{self.axis} split over {{}} by {self.parallel}"
        )
        split = by.format(self.sequence) if self.sequence > 1 else ""
        return ", ".join(part for part in (branches, split) if part)


def busiest_share(way: Way, length: int) -> float:
    """Of what one GPU would compute, that of the busiest of several: the split axis is padded to what they divide.

    Args:
        way: how they share.
        length: of the split axis; 0 = unknown, taken to be divided.
    """
    length = length or way.sequence
    return -(-length // way.sequence) / length / way.branches


def can_share(way: Way, axes: Sequence[Axis], frames: int) -> bool:
    """Whether a video is long enough: Latte and its kin, which have frames alone, take no single ones of longer videos.

    Args:
        way: how GPUs would share it.
        axes: of the model that can be split.
        frames: of its latents; 0 = unknown.
    """
    return tuple(axes) != ("frames",) or frames in {0, 1} or -(-frames // way.sequence) > 1


def ways(gpus: int, axes: Sequence[Axis], parallels: Sequence[Parallel] = PARALLELS, branches: int = 2) -> list[Way]:
    """All ways in which so many GPUs can share a video.

    Args:
        gpus: in all.
        axes: of the model that can be split.
        parallels: in which its attention may exchange; full attention exchanges in one way only.
        branches: guidance branches that the model has.
    """
    found = []
    for parts in (1, 2) if branches == 2 and gpus % 2 == 0 else (1,):
        if gpus == parts:
            found.append(Way(gpus=gpus, branches=parts))
            continue
        for axis in axes:
            several = ("ulysses",) if axis == "sequence" else parallels
            found += [Way(gpus=gpus, branches=parts, parallel=parallel, axis=axis) for parallel in several]
    return found


ANY_VIDEO = Video(frames=16, tokens=1024, bytes_per_token=4096, heads=16)
"""To compare axes by where the size of the video is not known yet: which is better hardly hangs on it."""


def choose_axis(mask: ComputeMask, parallel: Parallel, gpus: int, video: Video = ANY_VIDEO) -> Axis:
    """The axis to split; frames if both send the same.

    Args:
        mask: without rows for blocks.
        parallel: how attention exchanges.
        gpus: that share the sequence.
        video: its sizes.
    """
    calls = mask.calls(computed=True)
    return min(AXES, key=lambda axis: video.sent(axis, parallel, gpus, calls.get(EXCHANGING[axis], 0)).wire_bytes)
