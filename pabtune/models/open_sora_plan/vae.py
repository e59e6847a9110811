"""The causal video VAE of Open-Sora-Plan v1.1 as a diffusers autoencoder: an image VAE whose inner levels see earlier frames.

Parameter names are those of the published checkpoint (`LanguageBind/Open-Sora-Plan-v1.1.0`, folder `vae`), so its state dict
loads as it is.

Source: Open-Sora-Plan v1.1 (https://github.com/PKU-YuanGroup/Open-Sora-Plan), CausalVideoVAE.

Shapes: B batch, C channels, F frames, H and W height and width; latents are 8 times smaller in space; 1 + 4·n frames become
1 + n latents.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange
from torch import Tensor, nn

from pabtune.models.tiling import Tiling, Work, one_by_one, tiled

FRAME_LEVELS = 2
"""Number of outermost encoder levels, which process each frame alone."""

TIME_LEVELS = (1, 2)
"""Encoder levels, counted from the outside, after which time is halved."""

ENCODING = Tiling(size=512, frames=29, overlap=0.25)
DECODING = Tiling(size=64, frames=8, overlap=0.25)
"""Tiles of pixels for encoding and of latents for decoding, as in the reference."""


class CausalConv3d(nn.Module):
    """3-D convolution that sees no later frames: time is padded at its front by repeating the first frame."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: tuple[int, int, int], padding: int = 0, stride: int = 1
    ) -> None:
        super().__init__()
        self.before = kernel[0] - 1
        self.conv = nn.Conv3d(
            in_channels, out_channels, kernel, stride=(1, stride, stride), padding=(0, padding, padding)
        )

    def forward(self, x_BCFHW: Tensor) -> Tensor:
        return self.conv(with_first_repeated(x_BCFHW, self.before))


def with_first_repeated(x_BCFHW: Tensor, count: int) -> Tensor:
    """The clip with its first frame repeated `count` more times at the front."""
    return torch.cat([x_BCFHW[:, :, :1].expand(-1, -1, count, -1, -1), x_BCFHW], dim=2) if count else x_BCFHW


def per_frame(module: Callable[[Tensor], Tensor], x_BCFHW: Tensor) -> Tensor:
    """Output of an image module for each frame, (B, C, F, H, W)."""
    images = module(rearrange(x_BCFHW, "B C F H W -> (B F) C H W"))
    return rearrange(images, "(B F) C H W -> B C F H W", B=len(x_BCFHW))


def _cube(in_channels: int, out_channels: int, size: int) -> CausalConv3d:
    return CausalConv3d(in_channels, out_channels, (size, size, size), padding=size // 2)


def _square(in_channels: int, out_channels: int, size: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, size, padding=size // 2)


def _norm(channels: int, groups: int) -> nn.GroupNorm:
    return nn.GroupNorm(groups, channels, eps=1e-6)


class ResidualBlock(nn.Module):
    """Norm, SiLU and convolution, twice, with a shortcut: a convolution of size 1 if the widths differ.

    Args:
        convolution: of the block: `_square` for images, `_cube` for videos.
    """

    def __init__(
        self, in_channels: int, out_channels: int, groups: int, convolution: Callable[[int, int, int], nn.Module]
    ) -> None:
        super().__init__()
        self.norm1 = _norm(in_channels, groups)
        self.conv1 = convolution(in_channels, out_channels, 3)
        self.norm2 = _norm(out_channels, groups)
        self.conv2 = convolution(out_channels, out_channels, 3)
        self.nin_shortcut = convolution(in_channels, out_channels, 1) if in_channels != out_channels else None

    def forward(self, x: Tensor) -> Tensor:
        around = x if self.nin_shortcut is None else self.nin_shortcut(x)
        x = self.conv1(F.silu(self.norm1(x)))
        return around + self.conv2(F.silu(self.norm2(x)))


class FrameAttention(nn.Module):
    """Single-head self-attention over the positions of each frame; the norm is over all frames of the clip."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.norm = _norm(channels, groups)
        self.q, self.k, self.v, self.proj_out = (_cube(channels, channels, 1) for _ in range(4))

    def forward(self, x_BCFHW: Tensor) -> Tensor:
        B, _, _, H, _ = x_BCFHW.shape
        normed = self.norm(x_BCFHW)
        q, k, v = (rearrange(project(normed), "B C F H W -> (B F) 1 (H W) C") for project in (self.q, self.k, self.v))
        out = rearrange(F.scaled_dot_product_attention(q, k, v), "(B F) 1 (H W) C -> B C F H W", B=B, H=H)
        return x_BCFHW + self.proj_out(out)


class HalveSpace(nn.Module):
    """Half the height and width of images; the far edges are padded with zeros."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.conv(F.pad(x_BCHW, (0, 1, 0, 1)))


class DoubleSpace(nn.Module):
    """Twice the height and width of videos, by repeating, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = CausalConv3d(channels, channels, (1, 3, 3), padding=1)

    def forward(self, x_BCFHW: Tensor) -> Tensor:
        return self.conv(per_frame(lambda frames: F.interpolate(frames, scale_factor=2.0, mode="nearest"), x_BCFHW))


class HalveTime(nn.Module):
    """1 + 2·n frames become 1 + n: a learned mix of a mean and a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(channels, channels, 3, stride=(2, 1, 1), padding=(0, 1, 1))
        self.mix_factor = nn.Parameter(torch.tensor([2.0]))

    def forward(self, x_BCFHW: Tensor) -> Tensor:
        mean, x = self.mix_factor.sigmoid(), with_first_repeated(x_BCFHW, 2)
        return mean * F.avg_pool3d(x, (3, 1, 1), stride=(2, 1, 1)) + (1 - mean) * self.conv(x)


class DoubleTime(nn.Module):
    """1 + n frames become 1 + 2·n: a learned mix of an interpolation and a convolution of it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = _cube(channels, channels, 3)
        self.mix_factor = nn.Parameter(torch.tensor([2.0]))

    def forward(self, x_BCFHW: Tensor) -> Tensor:
        same, x = self.mix_factor.sigmoid(), x_BCFHW
        if x.shape[2] > 1:
            later = F.interpolate(x[:, :, 1:], scale_factor=(2.0, 1.0, 1.0), mode="trilinear")
            x = torch.cat([x[:, :, :1], later], dim=2)
        return same * x + (1 - same) * self.conv(x)


class Middle(nn.Module):
    """A block, attention, a block, at the lowest resolution."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.block_1 = ResidualBlock(channels, channels, groups, _cube)
        self.attn_1 = FrameAttention(channels, groups)
        self.block_2 = ResidualBlock(channels, channels, groups, _cube)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class Level(nn.Module):
    """The residual blocks of one resolution, and the changes of resolution after them."""

    def __init__(
        self, before: int, width: int, count: int, groups: int, convolution: Callable[[int, int, int], nn.Module]
    ) -> None:
        super().__init__()
        self.block = nn.ModuleList(
            ResidualBlock(before if index == 0 else width, width, groups, convolution) for index in range(count)
        )


class Encoder(nn.Module):
    """Frames (B, 3, F, H, W) to moments (B, 2·E, (F-1)/4 + 1, H/8, W/8) before `quant_conv`."""

    def __init__(self, widths: Sequence[int], latent_channels: int, count: int, groups: int) -> None:
        super().__init__()
        self.conv_in = _square(3, widths[0], 3)
        self.down = nn.ModuleList()
        for index, width in enumerate(widths):
            convolution = _square if index < FRAME_LEVELS else _cube
            level = Level(widths[max(index - 1, 0)], width, count, groups, convolution)
            if index < len(widths) - 1:
                level.downsample = HalveSpace(width)
            if index in TIME_LEVELS:
                level.time_downsample = HalveTime(width)
            self.down.append(level)
        self.mid = Middle(widths[-1], groups)
        self.norm_out = _norm(widths[-1], groups)
        self.conv_out = _cube(widths[-1], 2 * latent_channels, 3)

    def forward(self, x_BCFHW: Tensor) -> Tensor:
        x = per_frame(self.conv_in, x_BCFHW)
        for index, level in enumerate(self.down):
            for block in level.block:  # type: ignore[union-attr]
                x = per_frame(block, x) if index < FRAME_LEVELS else block(x)
            if index < len(self.down) - 1:
                x = per_frame(level.downsample, x)  # type: ignore[arg-type]
            if index in TIME_LEVELS:
                x = level.time_downsample(x)  # type: ignore[operator]
        return self.conv_out(F.silu(self.norm_out(self.mid(x))))


class Decoder(nn.Module):
    """Latents (B, E, n + 1, H, W), after `post_quant_conv`, to frames (B, 3, 4·n + 1, 8·H, 8·W)."""

    def __init__(self, widths: Sequence[int], latent_channels: int, count: int, groups: int) -> None:
        super().__init__()
        self.conv_in = _cube(latent_channels, widths[-1], 3)
        self.mid = Middle(widths[-1], groups)
        self.up = nn.ModuleList()
        for index, width in enumerate(widths):
            level = Level(widths[min(index + 1, len(widths) - 1)], width, count + 1, groups, _cube)
            if index > 0:
                level.upsample = DoubleSpace(width)
            if index - 1 in TIME_LEVELS:
                level.time_upsample = DoubleTime(width)
            self.up.append(level)
        self.norm_out = _norm(widths[0], groups)
        self.conv_out = _cube(widths[0], 3, 3)

    def forward(self, z: Tensor) -> Tensor:
        x = self.mid(self.conv_in(z))
        for index in reversed(range(len(self.up))):
            level = self.up[index]
            for block in level.block:  # type: ignore[union-attr]
                x = block(x)
            if index > 0:
                x = level.upsample(x)  # type: ignore[operator]
            if index - 1 in TIME_LEVELS:
                x = level.time_upsample(x)  # type: ignore[operator]
        return self.conv_out(F.silu(self.norm_out(x)))


class AutoencoderKLOpenSoraPlan(ModelMixin, ConfigMixin):
    """Open-Sora-Plan v1.1's video VAE. The defaults are the published model, and argument names the published ones.

    Args:
        hidden_size: narrowest width.
        hidden_size_mult: widths of the levels, in `hidden_size`; 4 levels.
        num_res_blocks: residual blocks per level of the encoder; the decoder has one more.
        z_channels: channels inside, before `quant_conv`.
        embed_dim: channels E of the latents.
        num_groups: of the group norms.
        scaling_factor: latents are multiplied by it before they are denoised.
        use_tiling: takes `ENCODING` or `DECODING` at once, with seams that are blended: bounds memory, changes results a
            little.
    """

    _supports_gradient_checkpointing = False

    @register_to_config
    def __init__(
        self,
        hidden_size: int = 128,
        hidden_size_mult: Sequence[int] = (1, 2, 4, 4),
        num_res_blocks: int = 2,
        z_channels: int = 4,
        embed_dim: int = 4,
        num_groups: int = 32,
        scaling_factor: float = 0.18215,
        use_tiling: bool = False,
    ) -> None:
        super().__init__()
        if len(hidden_size_mult) <= max(TIME_LEVELS) + 1:
            raise ValueError(f"hidden_size_mult needs at least 4 levels, but has {len(hidden_size_mult)}")
        widths = [hidden_size * multiplier for multiplier in hidden_size_mult]
        self.encoder = Encoder(widths, z_channels, num_res_blocks, num_groups)
        self.decoder = Decoder(widths, z_channels, num_res_blocks, num_groups)
        self.quant_conv = _cube(2 * z_channels, 2 * embed_dim, 1)
        self.post_quant_conv = _cube(embed_dim, z_channels, 1)
        self.use_tiling = use_tiling

    @property
    def spatial_factor(self) -> int:
        """Pixels per latent, in height and width."""
        return 2 ** (len(self.config.hidden_size_mult) - 1)

    @property
    def temporal_factor(self) -> int:
        """Frames per latent; the first latent stands for one frame."""
        return 2 ** len(TIME_LEVELS)

    def latent_frames(self, num_frames: int) -> int:
        """Latent frames of a video of `num_frames` frames."""
        return -(-(num_frames - 1) // self.temporal_factor) + 1

    def enable_tiling(self) -> None:
        """Encodes and decodes in tiles from now on (see `use_tiling`)."""
        self._set_tiling(True)

    def disable_tiling(self) -> None:
        """Encodes and decodes without tiles from now on."""
        self._set_tiling(False)

    def _set_tiling(self, use_tiling: bool) -> None:  # noqa: FBT001, the two above give it its name
        """Sets tiling, in the configuration too, so that it is saved."""
        defaults = [name for name in self.config.get("_use_default_values", ()) if name != "use_tiling"]
        self.register_to_config(use_tiling=use_tiling, _use_default_values=defaults)
        self.use_tiling = use_tiling

    def map_parts(self, work: Work, parts: Sequence[Tensor]) -> list[Tensor]:
        """Results of the work on each part of a video, one by one; a parallel decoder replaces this to share the parts."""
        return one_by_one(work, parts)

    def encode(self, x: Tensor, return_dict: bool = True) -> AutoencoderKLOutput | tuple[DiagonalGaussianDistribution]:
        """The distribution of latents (B, E, latent frames, H/8, W/8), not yet scaled.

        Args:
            x: frames (B, 3, F, H, W) in -1..1; F = 1 + 4·n; height and width multiples of `spatial_factor`.
            return_dict: return an `AutoencoderKLOutput` instead of a tuple.
        """

        def encode_part(part: Tensor) -> Tensor:
            return self.quant_conv(self.encoder(part))

        if self.use_tiling:
            moments = tiled(encode_part, x, ENCODING, 1 / self.spatial_factor, self.map_parts)
        else:
            moments = encode_part(x)
        distribution = DiagonalGaussianDistribution(moments)
        return AutoencoderKLOutput(latent_dist=distribution) if return_dict else (distribution,)

    def decode(self, z: Tensor, return_dict: bool = True) -> DecoderOutput | tuple[Tensor]:
        """Frames (B, 3, 4·n + 1, 8·H, 8·W) in -1..1.

        Args:
            z: latents (B, E, n + 1, H, W), unscaled.
            return_dict: return a `DecoderOutput` instead of a tuple.
        """

        def decode_part(part: Tensor) -> Tensor:
            return self.decoder(self.post_quant_conv(part))

        if self.use_tiling:
            frames = tiled(decode_part, z, DECODING, self.spatial_factor, self.map_parts)
        else:
            frames = decode_part(z)
        return DecoderOutput(sample=frames) if return_dict else (frames,)

    def forward(self, sample: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Encodes, takes a sample, decodes: frames to frames, (B, 3, F, H, W)."""
        return self.decode(self.encode(sample).latent_dist.sample(generator)).sample
