"""STDiT3, the spatial-temporal diffusion transformer of Open-Sora 1.2, as a diffusers model.

Spatial and temporal blocks alternate. Both are the same block: modulated self-attention over the tokens of a frame or
over the frames of a token, cross-attention to the text, modulated MLP. Parameter names are those of the published
checkpoint (`hpcai-tech/OpenSora-STDiT-v3`), so its state dict loads as it is.

Source: Open-Sora 1.2 (https://github.com/hpcaitech/Open-Sora, v1.2); PixArt-alpha for the shared modulation.

The class predicts the velocity `data - noise` of the rectified flow, as Open-Sora does. diffusers' flow-matching
schedulers expect `noise - data`: the pipelines change the sign.

Shapes: B batch, C channels, F frames, H height, W width (latent pixels); T frames, S tokens of a frame, N = T·S tokens
(after patching); D hidden size, h heads, d = D / h; L text tokens, E text width.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.loaders import PeftAdapterMixin
from diffusers.models.attention_dispatch import AttentionBackendName, dispatch_attention_fn
from diffusers.models.cache_utils import CacheMixin
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange
from torch import Tensor, nn

SHORT_SEQUENCE = 30
"""Below this many tokens, plain matrix products beat a fused attention kernel (the reference's own limit)."""

TIMESTEP_CHANNELS = 256
"""Width of the sinusoidal embedding of timesteps and frame rates."""


class Mlp(nn.Module):
    """Linear, GELU (tanh), Linear. x (…, in) -> (…, out)."""

    def __init__(self, in_features: int, hidden_features: int, out_features: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(in_features, hidden_features)
        self.fc2 = nn.Linear(hidden_features, out_features)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class ScalarEmbedding(nn.Module):
    """Sinusoidal embedding of one number per sample, then a two-layer MLP. (B,) -> (B, D)."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(TIMESTEP_CHANNELS, hidden_size), nn.SiLU(), nn.Linear(hidden_size, hidden_size)
        )

    def forward(self, value_B: Tensor, dtype: torch.dtype) -> Tensor:
        half = TIMESTEP_CHANNELS // 2
        exponent = torch.arange(half, dtype=torch.float32, device=value_B.device) / half
        angle = value_B.float()[:, None] * torch.exp(-math.log(10000.0) * exponent)
        return self.mlp(torch.cat([angle.cos(), angle.sin()], dim=-1).to(dtype))


class CaptionEmbedding(nn.Module):
    """Projects text features to the hidden size and holds the null caption `y_embedding` (L, E) for guidance."""

    def __init__(self, caption_channels: int, hidden_size: int, model_max_length: int) -> None:
        super().__init__()
        self.y_proj = Mlp(caption_channels, hidden_size, hidden_size)
        null_LE = torch.randn(model_max_length, caption_channels) / caption_channels**0.5
        self.register_buffer("y_embedding", null_LE)

    def forward(self, text_BLE: Tensor) -> Tensor:
        return self.y_proj(text_BLE)


class PatchEmbedding(nn.Module):
    """Non-overlapping patches by a strided convolution; the far edges are padded with zeros. -> (B, T, S, D)."""

    def __init__(self, patch_size: tuple[int, int, int], in_channels: int, hidden_size: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv3d(in_channels, hidden_size, kernel_size=patch_size, stride=patch_size)

    def forward(self, x_BCFHW: Tensor) -> Tensor:
        padding = []
        for size, patch in zip(reversed(x_BCFHW.shape[-3:]), reversed(self.patch_size), strict=True):
            padding += [0, -size % patch]
        x_BDTHW = self.proj(F.pad(x_BCFHW, padding))
        return rearrange(x_BDTHW, "B D T H W -> B T (H W) D")


class RotaryEmbedding(nn.Module):
    """Rotary embedding over frames, interleaved pairs (RoFormer, https://arxiv.org/abs/2104.09864)."""

    def __init__(self, head_dim: int) -> None:
        super().__init__()
        exponent = torch.arange(0, head_dim, 2).float() / head_dim
        self.freqs = nn.Parameter(10000.0**-exponent, requires_grad=False)

    def forward(self, length: int) -> tuple[Tensor, Tensor]:
        """Cosines and sines, each (length, d)."""
        position = torch.arange(length, device=self.freqs.device, dtype=torch.float32)
        angle = torch.outer(position, self.freqs.float()).repeat_interleave(2, dim=-1)
        return angle.cos(), angle.sin()


def rotate(x_BNhd: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """Turns each neighbouring pair of channels by its position's angle."""
    cos_N1d, sin_N1d = rotary[0][:, None], rotary[1][:, None]
    turned = torch.stack([-x_BNhd[..., 1::2], x_BNhd[..., 0::2]], dim=-1).flatten(-2)
    return (x_BNhd * cos_N1d + turned * sin_N1d).to(x_BNhd.dtype)


def attention(q_BNhd: Tensor, k_BMhd: Tensor, v_BMhd: Tensor, mask_B11M: Tensor | None = None) -> Tensor:
    """Softmax attention. Short sequences by plain products in float32, others by a fused kernel."""
    if mask_B11M is None and k_BMhd.shape[1] < SHORT_SEQUENCE:
        q, k, v = (x.transpose(1, 2) for x in (q_BNhd, k_BMhd, v_BMhd))
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
        return (scores.softmax(dim=-1, dtype=torch.float32).to(v.dtype) @ v).transpose(1, 2)
    return fused_attention(q_BNhd, k_BMhd, v_BMhd, mask_B11M)


def fused_attention(q_BNhd: Tensor, k_BMhd: Tensor, v_BMhd: Tensor, mask_B11M: Tensor | None) -> Tensor:
    """Attention through diffusers' dispatcher, with torch's own kernel where there is a mask: FlashAttention takes none."""
    backend = None if mask_B11M is None else AttentionBackendName.NATIVE
    return dispatch_attention_fn(q_BNhd, k_BMhd, v_BMhd, attn_mask=mask_B11M, backend=backend)


class SelfAttention(nn.Module):
    """Self-attention over the tokens of each frame (spatial) or over the frames of each token (temporal)."""

    def __init__(self, hidden_size: int, num_heads: int, qk_norm: bool, temporal: bool) -> None:
        super().__init__()
        head_dim = hidden_size // num_heads
        self.num_heads = num_heads
        self.temporal = temporal
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size)
        self.q_norm = nn.RMSNorm(head_dim, eps=1e-6) if qk_norm else nn.Identity()
        self.k_norm = nn.RMSNorm(head_dim, eps=1e-6) if qk_norm else nn.Identity()
        self.proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, x_BTSD: Tensor, rotary: tuple[Tensor, Tensor] | None) -> Tensor:
        B, T, S, _ = x_BTSD.shape
        x = rearrange(x_BTSD, "B T S D -> (B S) T D" if self.temporal else "B T S D -> (B T) S D")
        q, k, v = rearrange(self.qkv(x), "b n (three h d) -> three b n h d", three=3, h=self.num_heads)
        q, k = self.q_norm(q), self.k_norm(k)
        if rotary is not None:
            q, k = rotate(q, rotary), rotate(k, rotary)
        x = self.proj(attention(q, k, v).flatten(-2))
        if self.temporal:
            return rearrange(x, "(B S) T D -> B T S D", B=B, S=S)
        return rearrange(x, "(B T) S D -> B T S D", B=B, T=T)


class CrossAttention(nn.Module):
    """Attention of all video tokens to the text. No norm, no modulation, no gate."""

    def __init__(self, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q_linear = nn.Linear(hidden_size, hidden_size)
        self.kv_linear = nn.Linear(hidden_size, 2 * hidden_size)
        self.proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, x_BTSD: Tensor, text_BLD: Tensor, mask_B11L: Tensor | None) -> Tensor:
        q = rearrange(self.q_linear(x_BTSD), "B T S (h d) -> B (T S) h d", h=self.num_heads)
        k, v = rearrange(self.kv_linear(text_BLD), "B L (two h d) -> two B L h d", two=2, h=self.num_heads)
        return self.proj(fused_attention(q, k, v, mask_B11L).flatten(-2)).view_as(x_BTSD)


class ModulatedNorm(nn.LayerNorm):
    """Layer norm without weights, scaled and shifted by the timestep. x (B, T, S, D); shift, scale (B, T or 1, 1, D)."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__(hidden_size, eps=1e-6, elementwise_affine=False)

    def forward(self, x_BTSD: Tensor, shift_BT1D: Tensor, scale_BT1D: Tensor) -> Tensor:
        return super().forward(x_BTSD) * (1 + scale_BT1D) + shift_BT1D


class STDiT3Block(nn.Module):
    """One block. Its sites: `attn` (fed by `norm1`), `cross_attn`, `mlp` (fed by `norm2`); gates lie outside."""

    def __init__(self, hidden_size: int, num_heads: int, mlp_ratio: float, qk_norm: bool, temporal: bool) -> None:
        super().__init__()
        self.scale_shift_table = nn.Parameter(torch.randn(6, hidden_size) / hidden_size**0.5)
        self.norm1 = ModulatedNorm(hidden_size)
        self.attn = SelfAttention(hidden_size, num_heads, qk_norm, temporal)
        self.cross_attn = CrossAttention(hidden_size, num_heads)
        self.norm2 = ModulatedNorm(hidden_size)
        self.mlp = Mlp(hidden_size, int(hidden_size * mlp_ratio), hidden_size)

    def forward(
        self,
        x_BTSD: Tensor,
        text_BLD: Tensor,
        mask_B11L: Tensor | None,
        modulation_BT6D: Tensor,
        rotary: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        table = self.scale_shift_table + modulation_BT6D
        shift_attn, scale_attn, gate_attn, shift_mlp, scale_mlp, gate_mlp = table.chunk(6, dim=2)
        x_BTSD = x_BTSD + gate_attn * self.attn(self.norm1(x_BTSD, shift_attn, scale_attn), rotary)
        x_BTSD = x_BTSD + self.cross_attn(x_BTSD, text_BLD, mask_B11L)
        return x_BTSD + gate_mlp * self.mlp(self.norm2(x_BTSD, shift_mlp, scale_mlp))


class FinalLayer(nn.Module):
    """Modulated norm and the linear map from tokens to patches."""

    def __init__(self, hidden_size: int, out_features: int) -> None:
        super().__init__()
        self.scale_shift_table = nn.Parameter(torch.randn(2, hidden_size) / hidden_size**0.5)
        self.norm_final = ModulatedNorm(hidden_size)
        self.linear = nn.Linear(hidden_size, out_features)

    def forward(self, x_BTSD: Tensor, timestep_BTD: Tensor) -> Tensor:
        shift, scale = (self.scale_shift_table + timestep_BTD[:, :, None]).chunk(2, dim=2)
        return self.linear(self.norm_final(x_BTSD, shift, scale))


def sincos_positions(rows: int, columns: int, hidden_size: int, scale: Tensor | float, device: torch.device) -> Tensor:
    """2-D sine-cosine positions (rows·columns, D): half of the width for columns, half for rows.

    `scale` is the video's size over the training size; positions are stretched to a square grid of the same area.
    """
    base = round((rows * columns) ** 0.5)
    exponent = torch.arange(0, hidden_size // 2, 2, device=device).float() / (hidden_size // 2)
    frequency = 10000.0**-exponent

    def waves(length: int) -> Tensor:
        angle = torch.outer(torch.arange(length, device=device) / scale * base / length, frequency)
        return torch.cat([angle.sin(), angle.cos()], dim=-1)

    across = waves(columns).expand(rows, columns, -1)
    down = waves(rows)[:, None].expand(rows, columns, -1)
    return torch.cat([across, down], dim=-1).flatten(0, 1)


class STDiT3Transformer3DModel(ModelMixin, ConfigMixin, CacheMixin, PeftAdapterMixin):
    """STDiT3. The defaults are STDiT3-XL/2 as published with Open-Sora 1.2; argument names are the published ones.

    Args:
        depth: number of spatial blocks; as many temporal ones.
        hidden_size: D; divisible by `num_heads` and by 4.
        num_heads: h.
        mlp_ratio: hidden width of an MLP over D.
        patch_size: patch in (frames, rows, columns).
        in_channels: C of the latents.
        pred_sigma: predict twice as many channels; the second half is unused at inference.
        caption_channels: E.
        model_max_length: longest caption, and the length of the null caption.
        qk_norm: normalise queries and keys per head.
        input_sq_size: size in pixels at which positions have scale 1.
    """

    _supports_gradient_checkpointing = False
    _no_split_modules = ["STDiT3Block"]  # noqa: RUF012, the name and type that diffusers reads
    _repeated_blocks = ["STDiT3Block"]  # noqa: RUF012

    @register_to_config
    def __init__(  # noqa: PLR0913, PLR0917, the published configuration
        self,
        depth: int = 28,
        hidden_size: int = 1152,
        num_heads: int = 16,
        mlp_ratio: float = 4.0,
        patch_size: Sequence[int] = (1, 2, 2),
        in_channels: int = 4,
        pred_sigma: bool = True,
        caption_channels: int = 4096,
        model_max_length: int = 300,
        qk_norm: bool = True,
        input_sq_size: int = 512,
    ) -> None:
        super().__init__()
        if hidden_size % num_heads or hidden_size % 4:
            raise ValueError(
                f"hidden_size must be divisible by num_heads and by 4, but got hidden_size={hidden_size}, "
                f"num_heads={num_heads}"
            )
        patch = (patch_size[0], patch_size[1], patch_size[2])
        self.out_channels = in_channels * 2 if pred_sigma else in_channels
        self.rope = RotaryEmbedding(hidden_size // num_heads)
        self.x_embedder = PatchEmbedding(patch, in_channels, hidden_size)
        self.t_embedder = ScalarEmbedding(hidden_size)
        self.fps_embedder = ScalarEmbedding(hidden_size)
        self.t_block = nn.Sequential(nn.SiLU(), nn.Linear(hidden_size, 6 * hidden_size))
        self.y_embedder = CaptionEmbedding(caption_channels, hidden_size, model_max_length)

        def blocks(temporal: bool) -> nn.ModuleList:
            return nn.ModuleList(
                STDiT3Block(hidden_size, num_heads, mlp_ratio, qk_norm, temporal) for _ in range(depth)
            )

        self.spatial_blocks = blocks(temporal=False)
        self.temporal_blocks = blocks(temporal=True)
        self.final_layer = FinalLayer(hidden_size, math.prod(patch) * self.out_channels)

    def forward(  # noqa: PLR0913, PLR0917, the published arguments
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        encoder_attention_mask: Tensor | None = None,
        fps: Tensor | None = None,
        height: Tensor | None = None,
        width: Tensor | None = None,
        x_mask: Tensor | None = None,
        return_dict: bool = True,
    ) -> Transformer2DModelOutput | tuple[Tensor]:
        """Velocity `data - noise`, (B, out_channels, F, H, W), in float32.

        Args:
            hidden_states: noisy latents (B, C, F, H, W).
            timestep: noise level in 0..1000, (B,).
            encoder_hidden_states: text features (B, L, E) or (B, 1, L, E).
            encoder_attention_mask: 1 where a text token counts, (B, L); one row serves the whole batch.
            fps: frames per second, (B,); default 24.
            height: height of the decoded video in pixels, (B,); with `width` it sets the scale of positions.
                Default: `input_sq_size`, as for `width`.
            width: width of the decoded video in pixels, (B,).
            x_mask: true for latent frames that are noisy, false for those of the input image, (B, F); default: all are
                noisy. Given frames are modulated as at noise level 0. One frame of latents is one of patches.
            return_dict: return a `Transformer2DModelOutput` instead of a tuple.
        """
        B, _, frames, rows, columns = hidden_states.shape
        x_BTSD = self.x_embedder(hidden_states.to(self.dtype))
        scale = self._position_scale(height, width)
        grid = (-(-rows // self.config.patch_size[1]), -(-columns // self.config.patch_size[2]))
        x_BTSD = x_BTSD + sincos_positions(*grid, x_BTSD.shape[-1], scale, x_BTSD.device).to(x_BTSD.dtype)

        fps = torch.full((B,), 24.0, device=x_BTSD.device) if fps is None else fps.expand(B)
        timestep_BTD = self._timestep_embedding(timestep.expand(B), fps, x_mask)
        modulation_BT6D = self.t_block(timestep_BTD).unflatten(-1, (6, -1))
        text_BLD = self.y_embedder(encoder_hidden_states.flatten(1, -2).to(x_BTSD.dtype))
        mask_B11L = None
        if encoder_attention_mask is not None:
            mask_B11L = encoder_attention_mask.bool().expand(B, -1)[:, None, None]

        rotary = self.rope(x_BTSD.shape[1])
        for spatial_block, temporal_block in zip(self.spatial_blocks, self.temporal_blocks, strict=True):
            x_BTSD = spatial_block(x_BTSD, text_BLD, mask_B11L, modulation_BT6D)
            x_BTSD = temporal_block(x_BTSD, text_BLD, mask_B11L, modulation_BT6D, rotary)
        patches = self.final_layer(x_BTSD, timestep_BTD)

        patch = self.config.patch_size
        sample = rearrange(
            patches,
            "B T (H W) (pt ph pw C) -> B C (T pt) (H ph) (W pw)",
            H=grid[0], W=grid[1], pt=patch[0], ph=patch[1], pw=patch[2],
        )[:, :, :frames, :rows, :columns].float()  # fmt: skip
        return Transformer2DModelOutput(sample=sample) if return_dict else (sample,)

    def _timestep_embedding(self, timestep_B: Tensor, fps_B: Tensor, noisy_BT: Tensor | None) -> Tensor:
        """(B, T, D), or (B, 1, D) where all frames are at the same level."""
        # The weights of the module do not show it: they may be stored in another precision than they compute in.
        fps_BD = self.fps_embedder(fps_B, self.dtype)
        noisy = (self.t_embedder(timestep_B, self.dtype) + fps_BD)[:, None]
        if noisy_BT is None:
            return noisy
        clean = (self.t_embedder(torch.zeros_like(timestep_B), self.dtype) + fps_BD)[:, None]
        return torch.where(noisy_BT.bool().expand(len(noisy), -1)[..., None], noisy, clean)

    def _position_scale(self, height: Tensor | None, width: Tensor | None) -> Tensor | float:
        if height is None or width is None:
            return 1.0
        area = height.flatten()[0].float() * width.flatten()[0].float()
        return area.sqrt() / self.config.input_sq_size
