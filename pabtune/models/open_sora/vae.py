"""The video VAE of Open-Sora 1.2 as a diffusers autoencoder: an image VAE per frame, then a causal one over time.

Parameter names are those of the published checkpoint (`hpcai-tech/OpenSora-VAE-v1.2`), so its state dict loads as it is.

Source: Open-Sora 1.2 (https://github.com/hpcaitech/Open-Sora, v1.2); MAGVIT-v2 for the temporal part
(https://arxiv.org/abs/2310.05737).

Shapes: B batch, C channels, F frames, H and W height and width; latents are 8 times smaller in space, 4 times in time.
"""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange
from torch import Tensor, nn

from pabtune.models.tiling import MapParts, Work, one_by_one

CHUNK_FRAMES = 17
"""Frames per call of the temporal part."""

FRAMES_AT_ONCE = 4
"""Frames per call of the image VAE, which bounds memory."""

SPATIAL_SCALE = 0.18215
"""Scale of the image VAE's latents."""

LATENT_SCALE = (3.85, 2.32, 2.33, 3.06)
LATENT_SHIFT = (-0.10, 0.34, 0.27, 0.98)
"""Scale and shift of the video latents, per channel."""


class CausalConv3d(nn.Module):
    """3-D convolution that sees no later frames: time is padded at its front, space on both sides, with zeros."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, time_stride: int = 1, bias: bool = True
    ) -> None:
        super().__init__()
        side = kernel_size // 2
        self.padding = (side, side, side, side, kernel_size - time_stride, 0)
        self.conv = nn.Conv3d(in_channels, out_channels, kernel_size, stride=(time_stride, 1, 1), bias=bias)

    def forward(self, x_BCFHW: Tensor) -> Tensor:
        return self.conv(F.pad(x_BCFHW, self.padding))


class ResidualBlock(nn.Module):
    """Norm, SiLU and convolution, twice, with a shortcut: a 1x1x1 convolution if the widths differ."""

    def __init__(self, in_channels: int, out_channels: int, num_groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(num_groups, in_channels)
        self.conv1 = CausalConv3d(in_channels, out_channels, 3, bias=False)
        self.norm2 = nn.GroupNorm(num_groups, out_channels)
        self.conv2 = CausalConv3d(out_channels, out_channels, 3, bias=False)
        self.conv3 = CausalConv3d(in_channels, out_channels, 1, bias=False) if in_channels != out_channels else None

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.conv3 is None else self.conv3(x)
        x = self.conv1(F.silu(self.norm1(x)))
        return self.conv2(F.silu(self.norm2(x))) + shortcut


def _blocks(in_channels: int, out_channels: int, count: int, num_groups: int) -> nn.ModuleList:
    return nn.ModuleList(
        ResidualBlock(in_channels if index == 0 else out_channels, out_channels, num_groups) for index in range(count)
    )


class TemporalEncoder(nn.Module):
    """Image latents (B, C, F, H, W) to moments (B, 2·E, F/4, H, W); F a multiple of the temporal factor."""

    def __init__(
        self, in_channels: int, moments: int, widths: Sequence[int], shrinks: Sequence[bool], count: int, groups: int
    ) -> None:
        super().__init__()
        self.conv_in = CausalConv3d(in_channels, widths[0], 3, bias=False)
        befores = (widths[0], *widths[:-1])
        self.block_res_blocks = nn.ModuleList(
            _blocks(before, width, count, groups) for before, width in zip(befores, widths, strict=True)
        )
        self.conv_blocks = nn.ModuleList(
            CausalConv3d(width, width, 3, time_stride=2) if shrink else nn.Identity()
            for width, shrink in zip(widths, shrinks, strict=False)
        )
        self.res_blocks = _blocks(widths[-1], widths[-1], count, groups)
        self.norm1 = nn.GroupNorm(groups, widths[-1])
        self.conv2 = CausalConv3d(widths[-1], moments, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for level, blocks in enumerate(self.block_res_blocks):
            for block in blocks:
                x = block(x)
            if level < len(self.conv_blocks):
                x = self.conv_blocks[level](x)
        for block in self.res_blocks:
            x = block(x)
        return self.conv2(F.silu(self.norm1(x)))


class TemporalDecoder(nn.Module):
    """Latents (B, E, F/4, H, W) to image latents (B, C, F, H, W)."""

    def __init__(
        self,
        latent_channels: int,
        out_channels: int,
        widths: Sequence[int],
        grows: Sequence[bool],
        count: int,
        groups: int,
    ) -> None:
        super().__init__()
        self.conv1 = CausalConv3d(latent_channels, widths[-1], 3)
        self.res_blocks = _blocks(widths[-1], widths[-1], count, groups)
        afters = (*widths[1:], widths[-1])
        self.block_res_blocks = nn.ModuleList(
            _blocks(after, width, count, groups) for after, width in zip(afters, widths, strict=True)
        )
        # Twice the channels, half of which become frames.
        self.conv_blocks = nn.ModuleList(
            CausalConv3d(after, 2 * after, 3) if grow else nn.Identity()
            for after, grow in zip(widths[1:], grows, strict=True)
        )
        self.norm1 = nn.GroupNorm(groups, widths[0])
        self.conv_out = CausalConv3d(widths[0], out_channels, 3)

    def forward(self, z: Tensor) -> Tensor:
        x = self.conv1(z)
        for block in self.res_blocks:
            x = block(x)
        for level in reversed(range(len(self.block_res_blocks))):
            for block in self.block_res_blocks[level]:
                x = block(x)
            if level > 0 and isinstance(self.conv_blocks[level - 1], CausalConv3d):
                x = rearrange(self.conv_blocks[level - 1](x), "B (C two) F H W -> B C (F two) H W", two=2)
        return self.conv_out(F.silu(self.norm1(x)))


class TemporalVAE(nn.Module):
    """The temporal part. Lengths that its factor does not divide are padded with zeros at the front."""

    def __init__(  # noqa: PLR0913, PLR0917, the published configuration
        self,
        in_out_channels: int,
        latent_embed_dim: int,
        embed_dim: int,
        filters: int,
        num_res_blocks: int,
        channel_multipliers: Sequence[int],
        temporal_downsample: Sequence[bool],
        num_groups: int,
    ) -> None:
        super().__init__()
        widths = [filters * multiplier for multiplier in channel_multipliers]
        self.factor = 2 ** sum(temporal_downsample)
        self.quant_conv = CausalConv3d(2 * latent_embed_dim, 2 * embed_dim, 1)
        self.post_quant_conv = CausalConv3d(embed_dim, latent_embed_dim, 1)
        shape = (widths, temporal_downsample, num_res_blocks, num_groups)
        self.encoder = TemporalEncoder(in_out_channels, 2 * latent_embed_dim, *shape)
        self.decoder = TemporalDecoder(latent_embed_dim, in_out_channels, *shape)

    def latent_frames(self, num_frames: int) -> int:
        """Latent frames of a clip of `num_frames` frames."""
        return -(-num_frames // self.factor)

    def encode(self, x_BCFHW: Tensor) -> DiagonalGaussianDistribution:
        """The distribution of latents (B, E, F/4, H, W)."""
        missing = -x_BCFHW.shape[2] % self.factor
        return DiagonalGaussianDistribution(self.quant_conv(self.encoder(F.pad(x_BCFHW, (0, 0, 0, 0, missing, 0)))))

    def decode(self, z_BEFHW: Tensor, num_frames: int) -> Tensor:
        """Image latents (B, C, `num_frames`, H, W)."""
        return self.decoder(self.post_quant_conv(z_BEFHW))[:, :, -num_frames % self.factor :]


class SpatialVAE(nn.Module):
    """The image VAE, applied frame by frame. Published parameter names call it `module`."""

    def __init__(self, module: AutoencoderKL) -> None:
        super().__init__()
        self.module = module

    def encode(self, x_BCFHW: Tensor, generator: torch.Generator | None, sample: bool) -> Tensor:
        """Image latents (B, C, F, H/8, W/8)."""
        parts = []
        for frames in rearrange(x_BCFHW, "B C F H W -> (B F) C H W").split(FRAMES_AT_ONCE):
            distribution = self.module.encode(frames).latent_dist
            parts.append(distribution.sample(generator) if sample else distribution.mode())
        return rearrange(torch.cat(parts), "(B F) C H W -> B C F H W", B=len(x_BCFHW)) * SPATIAL_SCALE

    def decode(self, z_BCFHW: Tensor, map_parts: MapParts = one_by_one) -> Tensor:
        """Frames (B, 3, F, 8·H, 8·W)."""
        latents = rearrange(z_BCFHW / SPATIAL_SCALE, "B C F H W -> (B F) C H W")
        parts = map_parts(lambda part: self.module.decode(part, return_dict=False)[0], latents.split(FRAMES_AT_ONCE))
        return rearrange(torch.cat(parts), "(B F) C H W -> B C F H W", B=len(z_BCFHW))


class AutoencoderKLOpenSora(ModelMixin, ConfigMixin):
    """Open-Sora 1.2's video VAE: 17 frames become 5 latents. The defaults are the published model.

    Args:
        in_out_channels: channels of the image VAE's latents.
        latent_embed_dim: channels of the video latents inside.
        embed_dim: channels of the video latents.
        filters: narrowest width of the temporal part.
        num_res_blocks: residual blocks per level.
        channel_multipliers: widths of the levels, in `filters`.
        temporal_downsample: after which levels, but the last, time is halved.
        num_groups: of the temporal part's group norms.
        spatial_block_out_channels: widths of the image VAE.
        spatial_layers_per_block: residual blocks per level of the image VAE.
        spatial_norm_num_groups: of the image VAE's group norms.
    """

    _supports_gradient_checkpointing = False

    @register_to_config
    def __init__(  # noqa: PLR0913, PLR0917, the published configuration
        self,
        in_out_channels: int = 4,
        latent_embed_dim: int = 4,
        embed_dim: int = 4,
        filters: int = 128,
        num_res_blocks: int = 4,
        channel_multipliers: Sequence[int] = (1, 2, 2, 4),
        temporal_downsample: Sequence[bool] = (False, True, True),
        num_groups: int = 32,
        spatial_block_out_channels: Sequence[int] = (128, 256, 512, 512),
        spatial_layers_per_block: int = 2,
        spatial_norm_num_groups: int = 32,
    ) -> None:
        super().__init__()
        if len(channel_multipliers) != len(temporal_downsample) + 1:
            raise ValueError(
                f"temporal_downsample says what follows each level but the last: channel_multipliers has "
                f"{len(channel_multipliers)} levels, temporal_downsample {len(temporal_downsample)} entries"
            )
        levels = len(spatial_block_out_channels)
        image_vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            block_out_channels=tuple(spatial_block_out_channels),
            layers_per_block=spatial_layers_per_block,
            norm_num_groups=spatial_norm_num_groups,
            latent_channels=in_out_channels,
        )
        self.spatial_vae = SpatialVAE(image_vae)
        self.temporal_vae = TemporalVAE(
            in_out_channels, latent_embed_dim, embed_dim, filters, num_res_blocks, channel_multipliers,
            temporal_downsample, num_groups,
        )  # fmt: skip
        self.register_buffer("scale", torch.tensor(LATENT_SCALE[:embed_dim])[None, :, None, None, None])
        self.register_buffer("shift", torch.tensor(LATENT_SHIFT[:embed_dim])[None, :, None, None, None])

    @property
    def spatial_factor(self) -> int:
        """Pixels per latent, in height and width."""
        return 2 ** (len(self.config.spatial_block_out_channels) - 1)

    def latent_frames(self, num_frames: int) -> int:
        """Latent frames of a video of `num_frames` frames: 5 for every 17, fewer for the remainder."""
        return sum(self.temporal_vae.latent_frames(frames) for frames in _chunks(num_frames))

    def encode(
        self,
        x: Tensor,
        generator: torch.Generator | None = None,
        sample_images: bool = True,
        return_dict: bool = True,
    ) -> AutoencoderKLOutput | tuple[DiagonalGaussianDistribution]:
        """The distribution of latents (B, E, latent frames, H/8, W/8), normalised per channel.

        Args:
            x: frames (B, 3, F, H, W) in -1..1; height and width multiples of `spatial_factor`.
            generator: for samples of the image VAE.
            sample_images: take a sample of the image VAE, as the reference does; else its mode.
            return_dict: return an `AutoencoderKLOutput` instead of a tuple.
        """
        images = self.spatial_vae.encode(x, generator, sample_images)
        moments = [self.temporal_vae.encode(part).parameters for part in images.split(CHUNK_FRAMES, dim=2)]
        mean, logvar = torch.cat(moments, dim=2).chunk(2, dim=1)
        normalised = torch.cat([(mean - self.shift) / self.scale, logvar - 2 * self.scale.log()], dim=1)
        distribution = DiagonalGaussianDistribution(normalised)
        return AutoencoderKLOutput(latent_dist=distribution) if return_dict else (distribution,)

    def decode(self, z: Tensor, num_frames: int, return_dict: bool = True) -> DecoderOutput | tuple[Tensor]:
        """Frames (B, 3, `num_frames`, 8·H, 8·W) in -1..1.

        Args:
            z: latents (B, E, latent frames, H, W).
            num_frames: frames to decode; needed because 14 and 16 frames, for example, have equally many latents.
            return_dict: return a `DecoderOutput` instead of a tuple.

        Raises:
            ValueError: the latents of `num_frames` frames have another length.
        """
        if z.shape[2] != self.latent_frames(num_frames):
            raise ValueError(f"{num_frames} frames have {self.latent_frames(num_frames)} latents, but got {z.shape[2]}")
        chunks = list(_chunks(num_frames))
        parts = (z * self.scale + self.shift).split([self.temporal_vae.latent_frames(chunk) for chunk in chunks], dim=2)
        images = self.map_parts(self._decode_latents, parts)
        trimmed = [part[:, :, -chunk:] for part, chunk in zip(images, chunks, strict=True)]
        frames = self.spatial_vae.decode(torch.cat(trimmed, dim=2), self.map_parts)
        return DecoderOutput(sample=frames) if return_dict else (frames,)

    def _decode_latents(self, z: Tensor) -> Tensor:
        """Image latents of the longest clip that has this many latent frames."""
        return self.temporal_vae.decode(z, z.shape[2] * self.temporal_vae.factor)

    def map_parts(self, work: Work, parts: Sequence[Tensor]) -> list[Tensor]:
        """Results of the work on each part of a video, one by one; a parallel decoder replaces this to share the parts."""
        return one_by_one(work, parts)

    def forward(self, sample: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Encodes, takes a sample, decodes: frames to frames, (B, 3, F, H, W)."""
        latents = self.encode(sample, generator).latent_dist.sample(generator)
        return self.decode(latents, sample.shape[2]).sample


def _chunks(num_frames: int) -> Iterator[int]:
    """Frames of each chunk of the temporal part."""
    while num_frames > 0:
        yield min(num_frames, CHUNK_FRAMES)
        num_frames -= CHUNK_FRAMES
