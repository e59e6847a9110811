"""Parallel decoding: each process decodes some parts of the latents and receives the frames of the others.

Where a VAE decodes frames, or chunks of frames, independently, these are the parts, and the result is exactly that of one
process. Otherwise the parts are tiles with blended overlaps, and the result is that of one process with the same tiles.

Shapes: B batch, C channels, F latent frames, H and W height and width of latents.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from diffusers import AutoencoderKL, DiffusionPipeline
from diffusers.models.autoencoders.vae import DecoderOutput
from torch import Tensor

from pabtune.models.open_sora import AutoencoderKLOpenSora
from pabtune.models.open_sora_plan import AutoencoderKLOpenSoraPlan
from pabtune.models.tiling import MapParts, Tiling, Work, tiled
from pabtune.parallel.collectives import Communicator
from pabtune.parallel.sharded_model import ShardedModel
from pabtune.records.errors import ParallelError

PURPOSE = "decoding"
ALL_FRAMES = 2**30
"""Frames of a tile: more than any video has, so that frames are not cut."""

OVERLAP = 0.25
LEAST_TILE = 8
"""In latents; smaller tiles would be mostly overlap."""
WORTH_SHARING = 0.9
"""Tile only if the busiest process gets at most this fraction of the latents, since blending costs a little quality."""
LOAD_TOLERANCE = 1.05
"""Accepted load of the busiest process, relative to the best balance, in exchange for larger tiles."""
MOST_TILES_PER_PROCESS = 3


class SharedParts:
    """Distributes the parts of a video over all processes, with balanced load.

    Args:
        communicator: connects all processes.
    """

    def __init__(self, communicator: Communicator) -> None:
        self._communicator = communicator

    def __call__(self, work: Work, parts: Sequence[Tensor]) -> list[Tensor]:
        """Applies the work to all parts: each process computes its own and receives the others."""
        communicator = self._communicator
        ranks = assign([part.numel() for part in parts], communicator.size)
        outputs = {index: work(part) for index, part in enumerate(parts) if ranks[index] == communicator.rank}
        local = {index: (tuple(output.shape), output.dtype) for index, output in outputs.items()}
        specs = {index: spec for each in communicator.all_gather_object(local) for index, spec in each.items()}
        return [
            communicator.broadcast_tensor(outputs.get(index), ranks[index], *specs[index], parts[0].device, PURPOSE)
            for index in range(len(parts))
        ]


def split_decoder(sharded: ShardedModel, pipeline: DiffusionPipeline, *, use_tiles: bool = False) -> str | None:
    """Splits decoding over all processes; returns a name for the parts, or None if every process decodes everything.

    Args:
        sharded: the split model, which records the patch.
        pipeline: the pipeline whose VAE decodes.
        use_tiles: also split other VAEs, in blended tiles.

    Raises:
        ParallelError: `use_tiles` is set, and the number of pixels per latent is unknown.
    """
    vae = getattr(pipeline, "vae", None)
    share = SharedParts(sharded.everyone)
    if isinstance(vae, AutoencoderKLOpenSora) or (isinstance(vae, AutoencoderKLOpenSoraPlan) and vae.use_tiling):
        sharded.patch(vae, "map_parts", share)
        return "frames" if isinstance(vae, AutoencoderKLOpenSora) else "the VAE's own tiles"
    if isinstance(vae, AutoencoderKL):
        sharded.patch(vae, "decode", _Images(vae, share))
        return "frames"
    if vae is None or not use_tiles:
        return None
    sharded.patch(vae, "decode", TiledDecode(vae, share, pixels_per_latent(pipeline), sharded.everyone.size))
    return "blended tiles where that is faster"


class _Decode:
    """Replacement of a VAE's `decode`."""

    def __init__(self, vae: Any, share: MapParts) -> None:
        self._original, self._share = vae.decode, share

    def frames(self, z: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """Frames that the original method decodes from latents."""
        output = self._original(z, *args, **{**kwargs, "return_dict": False})
        sample: Tensor = output[0]
        return sample


class _Images(_Decode):
    """Replacement of the `decode` of an image VAE: decodes the images of a batch one by one."""

    def __call__(self, z: Tensor, *args: Any, return_dict: bool = True, **kwargs: Any) -> Any:
        """Images (B, 3, 8·H, 8·W) of latents (B, C, H, W)."""
        sample = torch.cat(self._share(lambda part: self.frames(part, args, kwargs), z.split(1)))
        return DecoderOutput(sample=sample) if return_dict else (sample,)


class TiledDecode(_Decode):
    """Replacement of a VAE's `decode` that decodes a video in tiles, each with all its frames.

    Args:
        vae: a VAE of any class.
        share: applies the work to all tiles.
        pixels: height in pixels of one latent.
        processes: number of processes that share the tiles.
    """

    def __init__(self, vae: Any, share: MapParts, pixels: int, processes: int) -> None:
        super().__init__(vae, share)
        self._pixels, self._processes = pixels, processes

    def __call__(self, z: Tensor, *args: Any, return_dict: bool = True, **kwargs: Any) -> Any:
        """Frames of latents (B, C, F, H, W)."""
        tiling = choose_tiling(*z.shape[-2:], self._processes)
        sample = tiled(lambda part: self.frames(part, args, kwargs), z, tiling, self._pixels, self._share)
        return DecoderOutput(sample=sample) if return_dict else (sample,)


def choose_tiling(height: int, width: int, processes: int) -> Tiling:
    """Largest tile within 5 % of the best load balance; a single tile where sharing saves less than a tenth.

    Args:
        height: height of the latents.
        width: width of the latents.
        processes: number of processes that share them.
    """
    one_tile = Tiling(size=max(height, width), frames=ALL_FRAMES, overlap=OVERLAP, keeps_remainder=False)
    sizes = (replace(one_tile, size=size) for size in range(one_tile.size - 1, LEAST_TILE - 1, -1))
    most = MOST_TILES_PER_PROCESS * processes
    tilings = [each for each in sizes if len(each.places(height)) * len(each.places(width)) <= most]
    loads = [busiest_load(tiling, height, width, processes) for tiling in tilings]
    limit = min(LOAD_TOLERANCE * min(loads, default=0), WORTH_SHARING * height * width)
    return next((tiling for tiling, load in zip(tilings, loads, strict=True) if load <= limit), one_tile)


def busiest_load(tiling: Tiling, height: int, width: int, processes: int) -> int:
    """Number of latents that the busiest process decodes."""
    rows, columns = ([place.stop - place.start for place in tiling.places(side)] for side in (height, width))
    areas = [down * across for down in rows for across in columns]
    loads = [0] * processes
    for area, rank in zip(areas, assign(areas, processes), strict=True):
        loads[rank] += area
    return max(loads)


def assign(sizes: Sequence[int], processes: int) -> list[int]:
    """Rank for each part: largest parts first, each to the least loaded process (longest processing time first)."""
    loads, ranks = [0] * processes, [0] * len(sizes)
    for index in sorted(range(len(sizes)), key=lambda index: -sizes[index]):
        ranks[index] = min(range(processes), key=loads.__getitem__)
        loads[ranks[index]] += sizes[index]
    return ranks


def pixels_per_latent(pipeline: DiffusionPipeline) -> int:
    """Height in pixels of one latent.

    Raises:
        ParallelError: neither the pipeline nor its VAE has an attribute for it.
    """
    for name in ("vae_scale_factor_spatial", "vae_spatial_compression_ratio", "vae_spatial_scale_factor"):
        if hasattr(pipeline, name):
            return int(getattr(pipeline, name))
    if hasattr(pipeline.vae, "spatial_factor"):
        return int(pipeline.vae.spatial_factor)
    raise ParallelError(
        f"the number of pixels per latent of {type(pipeline).__name__} is unknown; use --decode frames or alone"
    )
