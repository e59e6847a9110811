"""CogVideoX 1.0 text-to-video with DDIM and with DPM, and 1.5 image-to-video."""

import torch
from diffusers import (
    AutoencoderKLCogVideoX,
    CogVideoXDDIMScheduler,
    CogVideoXDPMScheduler,
    CogVideoXImageToVideoPipeline,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
)

from tests.pipelines.parts import Case, t5, tokenizer


def transformer(seed: int = 0, **changes) -> CogVideoXTransformer3DModel:
    torch.manual_seed(seed)
    arguments = {
        "num_attention_heads": 2, "attention_head_dim": 16, "in_channels": 4, "out_channels": 4, "time_embed_dim": 8,
        "text_embed_dim": 32, "num_layers": 2, "sample_width": 4, "sample_height": 4, "sample_frames": 9,
        "max_text_seq_length": 16,
    }  # fmt: skip
    return CogVideoXTransformer3DModel(**arguments | changes).eval()


def vae(**changes) -> AutoencoderKLCogVideoX:
    torch.manual_seed(0)
    arguments = {
        "down_block_types": ("CogVideoXDownBlock3D",) * 3, "up_block_types": ("CogVideoXUpBlock3D",) * 3,
        "block_out_channels": (8, 8, 8), "latent_channels": 4, "layers_per_block": 1, "norm_num_groups": 2,
        "sample_height": 16, "sample_width": 16,
    }  # fmt: skip
    return AutoencoderKLCogVideoX(**arguments | changes).eval()


SCHEDULE = {
    "prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing",
    "clip_sample": False,
}  # fmt: skip


def ddim() -> CogVideoXPipeline:
    return CogVideoXPipeline(
        tokenizer=tokenizer(), text_encoder=t5(), vae=vae(), transformer=transformer(),
        scheduler=CogVideoXDDIMScheduler(**SCHEDULE),
    )  # fmt: skip


def dpm() -> CogVideoXPipeline:
    return CogVideoXPipeline(
        tokenizer=tokenizer(), text_encoder=t5(), vae=vae(),
        transformer=transformer(use_rotary_positional_embeddings=True),
        scheduler=CogVideoXDPMScheduler(**SCHEDULE, snr_shift_scale=1.0),
    )  # fmt: skip


def image_to_video() -> CogVideoXImageToVideoPipeline:
    return CogVideoXImageToVideoPipeline(
        tokenizer=tokenizer(), text_encoder=t5(), vae=vae(invert_scale_latents=True),
        transformer=transformer(
            in_channels=8, patch_size_t=2, ofs_embed_dim=8, use_rotary_positional_embeddings=True, patch_bias=False
        ),
        scheduler=CogVideoXDPMScheduler(**SCHEDULE, snr_shift_scale=1.0),
    )  # fmt: skip


CALL = {
    "height": 16, "width": 16, "num_frames": 9, "num_inference_steps": 6, "guidance_scale": 6.0,
    "max_sequence_length": 16, "output_type": "latent",
}  # fmt: skip
IMAGE = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))

SITES = {"full": 2, "mlp": 2}
BRANCHES = frozenset({("transformer", "cond_uncond")})

CASES = {
    "cogvideox-ddim": Case(build=ddim, call=CALL, sites=SITES, branches=BRANCHES),
    "cogvideox-dpm": Case(build=dpm, call=CALL, sites=SITES, branches=BRANCHES),
    "cogvideox-i2v": Case(
        batch={"image": [IMAGE, IMAGE]},
        build=image_to_video,
        call=CALL | {"image": IMAGE},
        sites=SITES,
        branches=BRANCHES,
    ),
}
