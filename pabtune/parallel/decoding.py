"""Decoding latents on all processes: parts of a video are shared out, and each gets the frames of all.

Frames, or chunks of frames, where the VAE works on them alone: the result is that of one process, exactly. Overlapping
squares otherwise, whose seams are blended: the result is that of one process that decodes in the same squares.

Shapes: B batch, C channels, F latent frames, H and W height and width of latents.
"""

from collections.abc import Sequence
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


class SharedParts:
    """Parts of a video by turns: the first to the first process, the second to the second.

    Args:
        exchange: with all processes.
    """

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def __call__(self, work: Work, parts: Sequence[Tensor]) -> list[Tensor]:
        """The work on all parts; each process does its own and gets those of the others."""
        exchange = self._exchange
        own = {index: work(part) for index, part in enumerate(parts) if index % exchange.size == exchange.rank}
        shapes = exchange.tell({index: (tuple(made.shape), made.dtype) for index, made in own.items()})
        known = {index: shape for told in shapes for index, shape in told.items()}
        return [
            exchange.spread(own.get(index), index % exchange.size, *known[index], parts[0].device, PURPOSE)
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
    if isinstance(vae, AutoencoderKLOpenSora | AutoencoderKLOpenSoraPlan):
        split.patch(vae, "map_parts", share)
        return "squares" if isinstance(vae, AutoencoderKLOpenSoraPlan) and vae.use_tiling else "frames"
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
    """The largest squares of which there are as many as processes.

    Args:
        height: of the latents.
        width: likewise.
        processes: that share them.
    """
    for size in range(max(height, width), LEAST_SQUARE, -1):
        tiling = Tiling(size=size, frames=WHOLE_LENGTH, overlap=OVERLAP)
        counts = [len(list(tiling.squares(side))) if side > size else 1 for side in (height, width)]
        if counts[0] * counts[1] >= processes:
            return tiling
    return Tiling(size=LEAST_SQUARE, frames=WHOLE_LENGTH, overlap=OVERLAP)


def _pixels_per_latent(pipeline: DiffusionPipeline) -> int:
    for name in ("vae_scale_factor_spatial", "vae_spatial_compression_ratio", "vae_spatial_scale_factor"):
        if hasattr(pipeline, name):
            return int(getattr(pipeline, name))
    raise ParallelError(
        f"nothing tells how many pixels a latent of {type(pipeline).__name__} has; its VAE is not split"
    )
