"""A video in parts: overlapping squares whose seams are blended, and runs of frames that share one frame.

Knows how a video is cut and put together; knows nothing of what is done to the parts.

Shapes: B batch, C channels, F frames, H and W height and width.
"""

from collections.abc import Callable, Iterator
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
    """

    size: int
    frames: int
    overlap: float

    @property
    def stride(self) -> int:
        """From one square to the next."""
        return int(self.size * (1 - self.overlap))

    def squares(self, length: int) -> Iterator[slice]:
        """Places of the squares along a side."""
        return (slice(start, start + self.size) for start in range(0, length, self.stride))

    def runs(self, frames: int) -> Iterator[slice]:
        """Runs of frames; each but the first begins with the last frame of the one before."""
        starts = range(0, max(frames - 1, 1), self.frames - 1)
        return (slice(start, min(start + self.frames, frames)) for start in starts)


def tiled(
    work: Callable[[Tensor], Tensor], x_BCFHW: Tensor, tiling: Tiling, time_scale: float, space_scale: float
) -> Tensor:
    """What `work` makes of a video, part by part; parts that the video fits in are not cut.

    Args:
        work: on a part; changes its length by `time_scale` (first frame apart) and its size by `space_scale`.
        x_BCFHW: the video.
        tiling: sizes of the parts.
        time_scale: frames out per frame in.
        space_scale: height out per height in.
    """
    runs = []
    for run in tiling.runs(x_BCFHW.shape[2]):
        made = _in_squares(work, x_BCFHW[:, :, run], tiling, space_scale)
        runs.append(made if run.start == 0 else made[:, :, 1:])
    return torch.cat(runs, dim=2)


def _in_squares(work: Callable[[Tensor], Tensor], x_BCFHW: Tensor, tiling: Tiling, scale: float) -> Tensor:
    if max(x_BCFHW.shape[-2:]) <= tiling.size:
        return work(x_BCFHW)
    seam = int(tiling.size * scale * tiling.overlap)
    kept = int(tiling.size * scale) - seam
    above: list[Tensor] = []
    rows = []
    for vertical in tiling.squares(x_BCFHW.shape[3]):
        row = [work(x_BCFHW[:, :, :, vertical, across]) for across in tiling.squares(x_BCFHW.shape[4])]
        for index, square in enumerate(row):
            if above:
                row[index] = square = _blend(above[index], square, seam, dim=3)
            if index > 0:
                row[index] = _blend(row[index - 1], square, seam, dim=4)
        rows.append(torch.cat([square[:, :, :, :kept, :kept] for square in row], dim=4))
        above = row
    return torch.cat(rows, dim=3)


def _blend(before: Tensor, after: Tensor, seam: int, dim: int) -> Tensor:
    """`after`, whose first places go over from the last ones of `before`."""
    seam = min(before.shape[dim], after.shape[dim], seam)
    shape = [1] * after.ndim
    shape[dim] = seam
    share = (torch.arange(seam, device=after.device, dtype=torch.float32) / seam).view(shape).to(after.dtype)
    end = before.narrow(dim, before.shape[dim] - seam, seam)
    mixed = end * (1 - share) + after.narrow(dim, 0, seam) * share
    return torch.cat([mixed, after.narrow(dim, seam, after.shape[dim] - seam)], dim=dim)
