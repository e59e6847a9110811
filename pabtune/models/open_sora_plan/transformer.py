"""LatteT2V, the spatial-temporal diffusion transformer of Open-Sora-Plan v1.1, as a diffusers model.

Latte with rotary embeddings: its blocks are diffusers' `BasicTransformerBlock`s. Parameter names are those of the published
checkpoint (`LanguageBind/Open-Sora-Plan-v1.1.0`), so its state dict loads as it is.

Source: Open-Sora-Plan v1.1 (https://github.com/PKU-YuanGroup/Open-Sora-Plan); Latte (https://arxiv.org/abs/2401.03048).

Shapes: B batch, C channels, F frames, S tokens of a frame, D width, h heads, d = D / h; L text tokens, E text width.
"""

from collections.abc import Sequence

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.loaders import PeftAdapterMixin
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_dispatch import AttentionBackendName, dispatch_attention_fn
from diffusers.models.attention_processor import Attention
from diffusers.models.cache_utils import CacheMixin
from diffusers.models.embeddings import (
    PatchEmbed,
    PixArtAlphaTextProjection,
    get_1d_sincos_pos_embed_from_grid,
    get_2d_sincos_pos_embed,
)
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.normalization import AdaLayerNormSingle
from einops import rearrange, repeat
from torch import Tensor, nn

NULL_TOKENS = 120
"""Length of the null caption in the published weights, which sampling does not use."""

MASKED = -10000.0
"""Added to the scores of masked text."""

Rotary = tuple[Tensor, Tensor]


def rotary_angles(positions: Tensor, channels: int) -> Tensor:
    """Angles (N, channels) of a rotary embedding that rotates channel i together with channel i + channels/2."""
    frequencies = 10000.0 ** -(torch.arange(0, channels, 2, device=positions.device).float() / channels)
    return torch.outer(positions.float(), frequencies).repeat(1, 2)


def rotate_halves(x_BNhd: Tensor, rotary: Rotary, parts: int) -> Tensor:
    """Applies a rotary embedding to a head's channels (B, N, h, d), separately to each of its `parts`."""
    cos, sin = (table[:, None].to(x_BNhd.dtype) for table in rotary)
    halves = x_BNhd.unflatten(-1, (parts, 2, -1))
    rotated = torch.stack([-halves[..., 1, :], halves[..., 0, :]], dim=-2).flatten(-3)
    return x_BNhd * cos + rotated * sin


class RotaryProcessor:
    """Attention with a rotary embedding of queries and keys.

    Args:
        parts: number of position axes that share a head's channels: 1 for frames, 2 for rows and columns, 0 for text.
    """

    _attention_backend = None
    _parallel_config = None

    def __init__(self, parts: int) -> None:
        self.parts = parts

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary: Rotary | None = None,
    ) -> Tensor:
        text = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        inputs = ((attn.to_q, hidden_states), (attn.to_k, text), (attn.to_v, text))
        q, k, v = (rearrange(project(x), "B N (h d) -> B N h d", h=attn.heads) for project, x in inputs)
        if rotary is not None and self.parts:
            q, k = rotate_halves(q, rotary, self.parts), rotate_halves(k, rotary, self.parts)
        mask = None if attention_mask is None else attention_mask[:, None]
        # FlashAttention takes no masks.
        backend = self._attention_backend if mask is None else AttentionBackendName.NATIVE
        out = dispatch_attention_fn(q, k, v, attn_mask=mask, backend=backend)
        return attn.to_out[0](out.flatten(-2))


class CaptionProjection(PixArtAlphaTextProjection):
    """Projection of text features to the width D, with the null caption of training as a buffer."""

    def __init__(self, caption_channels: int, width: int) -> None:
        super().__init__(caption_channels, width)
        self.register_buffer("y_embedding", torch.randn(NULL_TOKENS, caption_channels) / caption_channels**0.5)


class LatteT2VTransformer3DModel(ModelMixin, ConfigMixin, CacheMixin, PeftAdapterMixin):
    """LatteT2V. The defaults are Open-Sora-Plan v1.1 at 65x512x512; argument names are the published ones.

    Args:
        num_attention_heads: h.
        attention_head_dim: d; divisible by 4.
        in_channels: C of the latents.
        out_channels: channels of the prediction; those beyond C are unused at inference.
        num_layers: number of spatial blocks; as many temporal ones.
        cross_attention_dim: width of the text inside, which is D.
        attention_bias: queries, keys and values have a bias.
        sample_size: rows and columns of the latents.
        patch_size: rows and columns of a patch.
        activation_fn: of the MLPs.
        norm_elementwise_affine: norms have weights.
        norm_eps: of the norms.
        caption_channels: E.
        video_length: frames of the latents.
        use_rope: rotary embeddings; else positions are only added.
        interpolation_scale_1d: divides the temporal positions.

    Attributes:
        first_frame: index in the entire video of the first frame of `hidden_states`; frames may be split over processes.
    """

    _supports_gradient_checkpointing = False
    _no_split_modules = ["BasicTransformerBlock"]  # noqa: RUF012, the name and type that diffusers reads
    _repeated_blocks = ["BasicTransformerBlock"]  # noqa: RUF012

    @register_to_config
    def __init__(  # noqa: PLR0913, PLR0917, the published configuration
        self,
        num_attention_heads: int = 16,
        attention_head_dim: int = 72,
        in_channels: int = 4,
        out_channels: int = 8,
        num_layers: int = 28,
        cross_attention_dim: int = 1152,
        attention_bias: bool = True,
        sample_size: Sequence[int] = (64, 64),
        patch_size: int = 2,
        activation_fn: str = "gelu-approximate",
        norm_elementwise_affine: bool = False,
        norm_eps: float = 1e-6,
        caption_channels: int = 4096,
        video_length: int = 17,
        use_rope: bool = True,
        interpolation_scale_1d: float = 1.0,
    ) -> None:
        super().__init__()
        width = num_attention_heads * attention_head_dim
        self.scale = max(1, sample_size[0] // 64)
        self.first_frame = 0
        self.pos_embed = PatchEmbed(sample_size[0], sample_size[1], patch_size, in_channels, width, pos_embed_type=None)
        self.adaln_single = AdaLayerNormSingle(width)
        self.caption_projection = CaptionProjection(caption_channels, width)

        def blocks(text_width: int | None, parts: int) -> nn.ModuleList:
            block_list = nn.ModuleList(
                BasicTransformerBlock(
                    width, num_attention_heads, attention_head_dim, cross_attention_dim=text_width,
                    activation_fn=activation_fn, attention_bias=attention_bias, norm_type="ada_norm_single",
                    norm_elementwise_affine=norm_elementwise_affine, norm_eps=norm_eps,
                )
                for _ in range(num_layers)
            )  # fmt: skip
            for block in block_list:
                block.attn1.set_processor(RotaryProcessor(parts if use_rope else 0))
                if block.attn2 is not None:
                    block.attn2.set_processor(RotaryProcessor(0))
            return block_list

        self.transformer_blocks = blocks(cross_attention_dim, parts=2)
        self.temporal_transformer_blocks = blocks(None, parts=1)
        self.norm_out = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.scale_shift_table = nn.Parameter(torch.randn(2, width) / width**0.5)
        self.proj_out = nn.Linear(width, patch_size**2 * out_channels)

    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        encoder_attention_mask: Tensor | None = None,
        return_dict: bool = True,
    ) -> Transformer2DModelOutput | tuple[Tensor]:
        """Prediction of the noise, (B, out_channels, F, H, W).

        Args:
            hidden_states: noisy latents (B, C, F, H, W); H and W multiples of the patch.
            timestep: 0..1000, (B,).
            encoder_hidden_states: text features (B, L, E) or (B, 1, L, E).
            encoder_attention_mask: 1 where a text token counts, (B, L) or (B, 1, L).
            return_dict: return a `Transformer2DModelOutput` instead of a tuple.
        """
        B, _, frames = hidden_states.shape[:3]
        patch = self.config.patch_size
        rows, columns = hidden_states.shape[-2] // patch, hidden_states.shape[-1] // patch
        x = self.pos_embed.proj(rearrange(hidden_states.to(self.dtype), "B C F H W -> (B F) C H W"))
        x = rearrange(x, "N D H W -> N (H W) D")
        x = x + self._positions(rows, columns, x)
        modulation, timestep_BD = self.adaln_single(timestep.expand(B), batch_size=B, hidden_dtype=x.dtype)
        text = self.caption_projection(encoder_hidden_states.flatten(1, -2).to(x.dtype))
        text = repeat(text, "B L D -> (B F) L D", F=frames)
        mask = None
        if encoder_attention_mask is not None:
            bias = (1 - encoder_attention_mask.flatten(1).to(x.dtype)) * MASKED
            mask = repeat(bias, "B L -> (B F) 1 L", F=frames)

        spatial, temporal = self._rotary(rows, columns, frames, x.device)
        per_frame, per_token = modulation.repeat_interleave(frames, 0), modulation.repeat_interleave(rows * columns, 0)
        pairs = zip(self.transformer_blocks, self.temporal_transformer_blocks, strict=True)
        for index, (spatial_block, temporal_block) in enumerate(pairs):
            x = spatial_block(x, None, text, mask, per_frame, cross_attention_kwargs={"rotary": spatial})
            x = rearrange(x, "(B F) S D -> (B S) F D", B=B)
            if index == 0 and frames > 1:
                x = x + self._frame_positions(frames, x)
            x = temporal_block(x, timestep=per_token, cross_attention_kwargs={"rotary": temporal})
            x = rearrange(x, "(B S) F D -> (B F) S D", B=B)

        table = self.scale_shift_table[None] + timestep_BD[:, None]
        shift, scale = table.repeat_interleave(frames, 0).chunk(2, dim=1)
        x = self.proj_out(self.norm_out(x) * (1 + scale) + shift)
        sample = rearrange(
            x, "(B F) (H W) (p q C) -> B C F (H p) (W q)", B=B, H=rows, p=patch, q=patch
        )  # fmt: skip
        return Transformer2DModelOutput(sample=sample) if return_dict else (sample,)

    def _positions(self, rows: int, columns: int, like: Tensor) -> Tensor:
        """2-D sine-cosine positions (S, D)."""
        base = self.config.sample_size[0] // self.config.patch_size
        table = get_2d_sincos_pos_embed(
            like.shape[-1], (rows, columns), base_size=base, interpolation_scale=self.scale, device=like.device,
            output_type="pt",
        )  # fmt: skip
        return table.to(like.dtype)

    def _frame_positions(self, frames: int, like: Tensor) -> Tensor:
        """1-D sine-cosine positions (F, D)."""
        indices = torch.arange(self.first_frame, self.first_frame + frames, device=like.device)
        positions = indices[:, None] / self.config.interpolation_scale_1d
        return get_1d_sincos_pos_embed_from_grid(like.shape[-1], positions, output_type="pt").to(like.dtype)

    def _rotary(self, rows: int, columns: int, frames: int, device: torch.device) -> tuple[Rotary, Rotary]:
        """Cosines and sines of the tokens of a frame, (S, d), and of frames, (F, d)."""
        head = self.config.attention_head_dim
        row, column = (torch.arange(length, device=device) // self.scale for length in (rows, columns))
        down = rotary_angles(row, head // 2).repeat_interleave(columns, 0)
        across = rotary_angles(column, head // 2).repeat(rows, 1)
        spatial = torch.cat([down, across], dim=-1)
        return (spatial.cos(), spatial.sin()), self.temporal_rotary(frames, device)

    def temporal_rotary(self, frames: int, device: torch.device) -> Rotary:
        """Cosines and sines of the first frames of a video, (F, d) each."""
        frame = (torch.arange(frames, device=device) / self.config.interpolation_scale_1d).long()
        angles = rotary_angles(frame, self.config.attention_head_dim)
        return angles.cos(), angles.sin()
