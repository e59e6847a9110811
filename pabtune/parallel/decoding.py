"""Decoding latents on all processes: parts of a video are shared out, and each gets the frames of all.

Frames, or chunks of frames, where the VAE works on them alone: the result is that of one process, exactly. Overlapping
squares otherwise, whose seams are blended: the result is that of one process that decodes in the same squares.

Shapes: B batch, C channels, F latent frames, H and W height and width of latents.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from diffusers import AutoencoderKL, DiffusionPipeline
from diffusers.models.autoencoders.vae import DecoderOutput
from torch import Tensor

from pabtune.models.open_sora import AutoencoderKLOpenSora
from pabtune.models.open_sora_plan import AutoencoderKLOpenSoraPlan
from pabtune.models.tiling import Tiling, Work, tiled
from pabtune.parallel.collectives import Exchange
from pabtune.records.errors import ParallelError

if TYPE_CHECKING:
    from pabtune.parallel.split import Split

PURPOSE = "decoding"
WHOLE_LENGTH = 2**30
"""Frames of a part: all of them."""

OVERLAP = 0.25
LEAST_SQUARE = 8
"""Latents; smaller squares would be all seam."""
WORTH_SHARING = 0.9
"""Of the whole, which the busiest process may have at most: seams cost a little of the video."""
HARDLY_MORE = 1.05
"""Times the least load: fewer seams are worth it."""
MOST_SQUARES = 3
"""For each process."""


class SharedParts:
    """Parts of a video, to each process about as much as to the others.

    Args:
        exchange: with all processes.
    """

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def __call__(self, work: Work, parts: Sequence[Tensor]) -> list[Tensor]:
        """The work on all parts; each process does its own and gets those of the others."""
        exchange = self._exchange
        ranks = shared_out([part.numel() for part in parts], exchange.size)
        own = {index: work(part) for index, part in enumerate(parts) if ranks[index] == exchange.rank}
        shapes = exchange.tell({index: (tuple(made.shape), made.dtype) for index, made in own.items()})
        known = {index: shape for told in shapes for index, shape in told.items()}
        return [
            exchange.spread(own.get(index), ranks[index], *known[index], parts[0].device, PURPOSE)
            for index in range(len(parts))
        ]


def split_decoder(split: "Split", pipeline: DiffusionPipeline, *, squares: bool = False) -> str | None:
    """Lets all processes of a split decode together; says how, or None if the VAE decodes in every process as before.

    Args:
        split: takes note of what is to be undone.
        pipeline: with a VAE.
        squares: also decode VAEs in squares that are not exact so.

    Raises:
        ParallelError: squares were asked for, and nothing tells how many pixels a latent has.
    """
    vae = getattr(pipeline, "vae", None)
    share = SharedParts(split.everyone)
    if isinstance(vae, AutoencoderKLOpenSora) or (isinstance(vae, AutoencoderKLOpenSoraPlan) and vae.use_tiling):
        split.patch(vae, "map_parts", share)
        return "frames" if isinstance(vae, AutoencoderKLOpenSora) else "tiles"
    if isinstance(vae, AutoencoderKL):
        split.patch(vae, "decode", _Images(vae, share))
        return "frames"
    if vae is None or not squares:
        return None
    split.patch(vae, "decode", _Squares(vae, share, _pixels_per_latent(pipeline), split.everyone.size))
    return "squares"


class _Decode:
    """Stands in for a VAE's `decode`."""

    def __init__(self, vae: Any, share: SharedParts) -> None:
        self._original, self._share = vae.decode, share

    def frames(self, z: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """What the VAE makes of latents."""
        output = self._original(z, *args, **{**kwargs, "return_dict": False})
        made: Tensor = output[0]
        return made


class _Images(_Decode):
    """Images of a batch, or frames, one by one."""

    def __call__(self, z: Tensor, *args: Any, return_dict: bool = True, **kwargs: Any) -> Any:
        """Images (B, 3, 8·H, 8·W) of latents (B, C, H, W)."""
        made = torch.cat(self._share(lambda part: self.frames(part, args, kwargs), z.split(1)))
        return DecoderOutput(sample=made) if return_dict else (made,)


class _Squares(_Decode):
    """Videos in squares, all frames of each."""

    def __init__(self, vae: Any, share: SharedParts, pixels: int, processes: int) -> None:
        super().__init__(vae, share)
        self._pixels, self._processes = pixels, processes

    def __call__(self, z: Tensor, *args: Any, return_dict: bool = True, **kwargs: Any) -> Any:
        """Frames of latents (B, C, F, H, W)."""
        tiling = choose_squares(*z.shape[-2:], self._processes)
        made = tiled(lambda part: self.frames(part, args, kwargs), z, tiling, self._pixels, self._share)
        return DecoderOutput(sample=made) if return_dict else (made,)


def choose_squares(height: int, width: int, processes: int) -> Tiling:
    """The largest squares with which the busiest process has hardly more to do than with any; one where sharing brings little.

    Args:
        height: of the latents.
        width: likewise.
        processes: that share them.
    """
    whole = Tiling(size=max(height, width), frames=WHOLE_LENGTH, overlap=OVERLAP, keeps_rests=False)
    sizes = (replace(whole, size=size) for size in range(whole.size - 1, LEAST_SQUARE - 1, -1))
    tilings = [each for each in sizes if len(each.places(height)) * len(each.places(width)) <= MOST_SQUARES * processes]
    loads = [busiest_load(tiling, height, width, processes) for tiling in tilings]
    limit = min(HARDLY_MORE * min(loads, default=0), WORTH_SHARING * height * width)
    return next((tiling for tiling, load in zip(tilings, loads, strict=True) if load <= limit), whole)


def busiest_load(tiling: Tiling, height: int, width: int, processes: int) -> int:
    """Latents that the busiest process decodes."""
    rows, columns = ([place.stop - place.start for place in tiling.places(side)] for side in (height, width))
    areas = [down * across for down in rows for across in columns]
    loads = [0] * processes
    for area, rank in zip(areas, shared_out(areas, processes), strict=True):
        loads[rank] += area
    return max(loads)


def shared_out(sizes: Sequence[int], processes: int) -> list[int]:
    """Which process does each part: the largest first, each by who has least to do."""
    loads, ranks = [0] * processes, [0] * len(sizes)
    for index in sorted(range(len(sizes)), key=lambda index: -sizes[index]):
        ranks[index] = min(range(processes), key=loads.__getitem__)
        loads[ranks[index]] += sizes[index]
    return ranks


def _pixels_per_latent(pipeline: DiffusionPipeline) -> int:
    for name in ("vae_scale_factor_spatial", "vae_spatial_compression_ratio", "vae_spatial_scale_factor"):
        if hasattr(pipeline, name):
            return int(getattr(pipeline, name))
    if hasattr(pipeline.vae, "spatial_factor"):
        return int(pipeline.vae.spatial_factor)
    raise ParallelError(
        f"nothing tells how many pixels a latent of {type(pipeline).__name__} has; its VAE is not split"
    )
