"""MiniMax-H3: its transformer and one forward. diffusers has modular blocks for it, but no `DiffusionPipeline`."""

from typing import Any

import torch
from diffusers import MiniMaxH3Transformer3DModel
from diffusers.modular_pipelines.minimax_h3.before_denoise import MiniMaxH3PrepareLayoutStep, MiniMaxH3SetTimestepsStep

SITES = {"full": 2, "mlp": 2}
LAYOUT = ("position_ids", "token_tags", "video_indices", "audio_indices", "text_indices")
TEXT_TAG = 1


def transformer(seed: int = 0, **changes) -> MiniMaxH3Transformer3DModel:
    torch.manual_seed(seed)
    arguments = {
        "num_attention_heads": 2, "attention_head_dim": 8, "hidden_size": 16, "num_layers": 2, "num_refiner_layers": 1,
        "ffn_dim": 32, "in_channels": 4, "audio_in_channels": 8, "text_dim": 16, "freq_dim": 16,
        "time_embed_hidden_dim": 16, "time_embed_dim": 16, "rope_freq_dim": 1,
    }  # fmt: skip
    return MiniMaxH3Transformer3DModel(**arguments | changes).eval()


def forward_arguments(seed: int = 0, video_timestep: float = 0.25, audio_timestep: float = 0.5) -> dict[str, Any]:
    """One call: 5 rows of text, 6 of audio (stereo), 8 of video, with a timestep per modality; 1 = clean."""
    *layout, video_conditions, audio_conditions = MiniMaxH3PrepareLayoutStep.build_packed_sequence(
        text_token_tags=torch.full((5,), TEXT_TAG), num_latent_frames=2, latent_height=4, latent_width=4,
        num_audio_latents=3, patch_size=(1, 2, 2), audio_channels=2, audio_tag=2, video_tag=0,
    )  # fmt: skip
    rows = dict(zip(LAYOUT, layout, strict=True))
    timestep, timestep_indices = MiniMaxH3SetTimestepsStep.build_row_timesteps(
        rows["video_indices"], rows["audio_indices"], video_conditions, audio_conditions, len(rows["text_indices"]),
        video_timestep, audio_timestep, condition_video_timestep=0.999, condition_audio_timestep=1.0,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    return {
        "hidden_states": torch.randn(1, len(rows["video_indices"]), 16, generator=generator),
        "audio_hidden_states": torch.randn(1, len(rows["audio_indices"]), 8, generator=generator),
        "encoder_hidden_states": torch.randn(1, len(rows["text_indices"]), 16, generator=generator),
        "timestep": timestep,
        "timestep_indices": timestep_indices,
        **rows,
    }
