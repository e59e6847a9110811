"""A video in parts: tiles whose overlaps are blended, and runs of frames that share one frame.

Knows how a video is cut and joined; knows nothing of what is done to the parts.

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
        size: height and width of a tile.
        frames: frames of a run.
        overlap: fraction of a tile's size that it has in common with its neighbour.
        keeps_remainder: a last tile is kept that lies entirely in the one before, as published decoders have it.
    """

    size: int
    frames: int
    overlap: float
    keeps_remainder: bool = True

    @property
    def stride(self) -> int:
        """Distance from one tile to the next."""
        return int(self.size * (1 - self.overlap))

    def places(self, length: int) -> list[slice]:
        """Places of the tiles along a side; one if it fits into a tile."""
        if length <= self.size:
            return [slice(0, length)]
        starts = range(0, length, self.stride)
        if not self.keeps_remainder:
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
    """The work on a video, part by part; sides that fit into a part are not cut.

    Args:
        work: work on a part; changes its height and width by `scale`. It keeps the first frame apart: of two runs that share a
            frame, the second gives that frame once more, which is left out.
        x_BCFHW: the video.
        tiling: sizes of the parts.
        scale: height out per height in.
        map_parts: does the work on all parts.
    """
    runs = list(tiling.runs(x_BCFHW.shape[2]))
    rows, columns = (tiling.places(length) for length in x_BCFHW.shape[-2:])
    parts = [x_BCFHW[:, :, run, down, across] for run in runs for down in rows for across in columns]
    outputs = iter(map_parts(work, parts))
    joined = [_join([[next(outputs) for _ in columns] for _ in rows], tiling, scale) for _ in runs]
    return torch.cat([frames if index == 0 else frames[:, :, 1:] for index, frames in enumerate(joined)], dim=2)


def _join(tiles: list[list[Tensor]], tiling: Tiling, scale: float) -> Tensor:
    """Rows of tiles as one video, overlaps blended."""
    kept, overlap = int(tiling.stride * scale), int((tiling.size - tiling.stride) * scale)
    for down, row in enumerate(tiles):
        for across in range(len(row)):
            if down > 0:
                row[across] = _blend(tiles[down - 1][across], row[across], overlap, dim=3)
            if across > 0:
                row[across] = _blend(row[across - 1], row[across], overlap, dim=4)
    cropped = [
        [
            tile[:, :, :, : kept if down < len(tiles) - 1 else None, : kept if across < len(row) - 1 else None]
            for across, tile in enumerate(row)
        ]
        for down, row in enumerate(tiles)
    ]
    return torch.cat([torch.cat(row, dim=4) for row in cropped], dim=3)


def _blend(before: Tensor, after: Tensor, overlap: int, dim: int) -> Tensor:
    """`after`, whose first places fade over from the last ones of `before`."""
    overlap = min(before.shape[dim], after.shape[dim], overlap)
    shape = [1] * after.ndim
    shape[dim] = overlap
    share = (torch.arange(overlap, device=after.device, dtype=torch.float32) / overlap).view(shape).to(after.dtype)
    end = before.narrow(dim, before.shape[dim] - overlap, overlap)
    mixed = end * (1 - share) + after.narrow(dim, 0, overlap) * share
    return torch.cat([mixed, after.narrow(dim, overlap, after.shape[dim] - overlap)], dim=dim)
