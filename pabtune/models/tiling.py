"""A video in parts: overlapping squares whose seams are blended, and runs of frames that share one frame.

Knows how a video is cut and put together; knows nothing of what is done to the parts.

Shapes: B batch, C channels, F frames, H and W height and width.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiling:
    """Sizes of parts.

    Attributes:
        size: height and width of a square.
        frames: of a run.
        overlap: share of a square's size that it has in common with its neighbour.
        keeps_rests: a last square is kept that lies wholly in the one before, as published decoders have it.
    """

    size: int
    frames: int
    overlap: float
    keeps_rests: bool = True

    @property
    def stride(self) -> int:
        """From one square to the next."""
        return int(self.size * (1 - self.overlap))

    def places(self, length: int) -> list[slice]:
        """Places of the squares along a side; one if it fits into a square."""
        if length <= self.size:
            return [slice(0, length)]
        starts = range(0, length, self.stride)
        if not self.keeps_rests:
            starts = range(0, length - (self.size - self.stride), self.stride)
        return [slice(start, min(start + self.size, length)) for start in starts]

    def runs(self, frames: int) -> Iterator[slice]:
        """Runs of frames; each but the first begins with the last frame of the one before."""
        starts = range(0, max(frames - 1, 1), self.frames - 1)
        return (slice(start, min(start + self.frames, frames)) for start in starts)


Work = Callable[[Tensor], Tensor]
"""On a part of a video."""

MapParts = Callable[[Work, Sequence[Tensor]], list[Tensor]]
"""Does the work on every part; several processes may share the parts."""


def one_by_one(work: Work, parts: Sequence[Tensor]) -> list[Tensor]:
    """The work on every part, here and now."""
    return [work(part) for part in parts]


def tiled(work: Work, x_BCFHW: Tensor, tiling: Tiling, scale: float, map_parts: MapParts = one_by_one) -> Tensor:
    """What `work` makes of a video, part by part; sides that fit into a part are not cut.

    Args:
        work: on a part; changes its height and width by `scale`. It keeps the first frame apart: of two runs that share a
            frame, the second gives that frame once more, which is left out.
        x_BCFHW: the video.
        tiling: sizes of the parts.
        scale: height out per height in.
        map_parts: does the work on all parts.
    """
    runs = list(tiling.runs(x_BCFHW.shape[2]))
    rows, columns = (tiling.places(length) for length in x_BCFHW.shape[-2:])
    parts = [x_BCFHW[:, :, run, down, across] for run in runs for down in rows for across in columns]
    made = iter(map_parts(work, parts))
    whole = [_join([[next(made) for _ in columns] for _ in rows], tiling, scale) for _ in runs]
    return torch.cat([frames if index == 0 else frames[:, :, 1:] for index, frames in enumerate(whole)], dim=2)


def _join(squares: list[list[Tensor]], tiling: Tiling, scale: float) -> Tensor:
    """Rows of squares as one, seams blended."""
    kept, seam = int(tiling.stride * scale), int((tiling.size - tiling.stride) * scale)
    for down, row in enumerate(squares):
        for across in range(len(row)):
            if down > 0:
                row[across] = _blend(squares[down - 1][across], row[across], seam, dim=3)
            if across > 0:
                row[across] = _blend(row[across - 1], row[across], seam, dim=4)
    own = [
        [
            square[:, :, :, : kept if down < len(squares) - 1 else None, : kept if across < len(row) - 1 else None]
            for across, square in enumerate(row)
        ]
        for down, row in enumerate(squares)
    ]
    return torch.cat([torch.cat(row, dim=4) for row in own], dim=3)


def _blend(before: Tensor, after: Tensor, seam: int, dim: int) -> Tensor:
    """`after`, whose first places go over from the last ones of `before`."""
    seam = min(before.shape[dim], after.shape[dim], seam)
    shape = [1] * after.ndim
    shape[dim] = seam
    share = (torch.arange(seam, device=after.device, dtype=torch.float32) / seam).view(shape).to(after.dtype)
    end = before.narrow(dim, before.shape[dim] - seam, seam)
    mixed = end * (1 - share) + after.narrow(dim, 0, seam) * share
    return torch.cat([mixed, after.narrow(dim, seam, after.shape[dim] - seam)], dim=dim)
