"""Which axis of a spatial-temporal video is split over processes: the one whose attention then sends least.

Attention along the split axis exchanges, the other does not, and what a policy broadcasts sends nothing. So the attention
that is broadcast most should be the one that exchanges: temporal attention, with frames split, under the paper's pyramids.

The layout is not changed within a call. Outputs are kept in the layout that they were computed in, so that staying in
another one after an attention would move what is kept instead: one message for each broadcast that is spared two.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from pabtune.planning.costs.communication import PARALLELS, Communication, Parallel, exchanged
from pabtune.planning.masks import ComputeMask
from pabtune.records.errors import PolicyError
from pabtune.records.sites import Kind

Axis = Literal["frames", "tokens"]
AXES: tuple[Axis, ...] = get_args(Axis)

EXCHANGING: Mapping[Axis, Kind] = {"frames": "temporal", "tokens": "spatial"}
"""Attention that exchanges where an axis is split."""

AXES_OF: Mapping[str, tuple[Axis, ...]] = {
    "STDiT3Transformer3DModel": ("frames", "tokens"),
    "LatteTransformer3DModel": ("frames",),
    "LatteT2VTransformer3DModel": ("frames",),
}
"""Axes that can be split, by class name of the transformer; full attention has none, its tokens are shared out."""

BY_TOKENS = (
    "WanTransformer3DModel", "ChronoEditTransformer3DModel", "HunyuanVideoTransformer3DModel", "CogVideoXTransformer3DModel",
    "LTXVideoTransformer3DModel", "SkyReelsV2Transformer3DModel",
)  # fmt: skip
"""Transformers with full attention whose tokens are cut through the whole network (`parallel/plans.py`)."""


def axes_of_class(name: str, gpus: int) -> tuple[Axis, ...]:
    """Axes to choose from when the time of a transformer on so many GPUs is predicted; the first stands for tokens too.

    Args:
        name: class name of the transformer.
        gpus: that share it.

    Raises:
        PolicyError: its work is shared inside sites, of which only a part is: how much cannot be told from a profile.
    """
    if gpus > 1 and name not in AXES_OF and name not in BY_TOKENS:
        raise PolicyError(
            f"what {gpus} GPUs take for {name} is not predicted: its work is shared inside sites alone; measure "
            "it with `pabtune generate --gpus --compare`"
        )
    return AXES_OF.get(name, AXES[:1])


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
        split = f"{self.axis} split over {self.sequence} by {self.parallel}" if self.sequence > 1 else ""
        return ", ".join(part for part in (branches, split) if part)


def ways(gpus: int, axes: Sequence[Axis], parallels: Sequence[Parallel] = PARALLELS) -> list[Way]:
    """All ways in which so many GPUs can share a video.

    Args:
        gpus: in all.
        axes: of the model that can be split.
        parallels: in which its attention may exchange.
    """
    found = []
    for branches in (1, 2) if gpus % 2 == 0 else (1,):
        if gpus == branches:
            found.append(Way(gpus=gpus, branches=branches))
            continue
        found += [
            Way(gpus=gpus, branches=branches, parallel=parallel, axis=axis) for axis in axes for parallel in parallels
        ]
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
