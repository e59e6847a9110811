"""LTX-Video: from text, and from an image with its timestep of every token."""

import numpy as np
import torch
from diffusers import (
    AutoencoderKLLTXVideo,
    FlowMatchEulerDiscreteScheduler,
    LTXImageToVideoPipeline,
    LTXPipeline,
    LTXVideoTransformer3DModel,
)
from PIL import Image

from tests.pipelines.parts import Case, t5, tokenizer

TEXT_LENGTH = 48


def transformer(seed: int = 0, **changes) -> LTXVideoTransformer3DModel:
    torch.manual_seed(seed)
    arguments = {
        "in_channels": 8, "out_channels": 8, "num_attention_heads": 2, "attention_head_dim": 8,
        "cross_attention_dim": 16, "num_layers": 2, "caption_channels": 32,
    }  # fmt: skip
    return LTXVideoTransformer3DModel(**arguments | changes).eval()


def vae() -> AutoencoderKLLTXVideo:
    torch.manual_seed(0)
    return AutoencoderKLLTXVideo(
        latent_channels=8, block_out_channels=(8, 8, 8), decoder_block_out_channels=(8, 8, 8),
        down_block_types=("LTXVideoDownBlock3D",) * 3, layers_per_block=(1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1), spatio_temporal_scaling=(True, True, False),
        decoder_spatio_temporal_scaling=(True, True, False), decoder_inject_noise=(False,) * 4,
        downsample_type=("conv",) * 3, upsample_residual=(False,) * 3, upsample_factor=(1,) * 3,
    ).eval()  # fmt: skip


def scheduler() -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, base_shift=0.95, max_shift=2.05, base_image_seq_len=1024, max_image_seq_len=4096,
        shift_terminal=0.1,
    )  # fmt: skip


def image() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))


def ltx() -> LTXPipeline:
    return LTXPipeline(
        tokenizer=tokenizer(TEXT_LENGTH), text_encoder=t5(), vae=vae(), scheduler=scheduler(),
        transformer=transformer(),
    )  # fmt: skip


def ltx_image() -> LTXImageToVideoPipeline:
    return LTXImageToVideoPipeline(
        tokenizer=tokenizer(TEXT_LENGTH), text_encoder=t5(), vae=vae(), scheduler=scheduler(),
        transformer=transformer(),
    )  # fmt: skip


CALL = {
    "height": 32, "width": 32, "num_frames": 9, "num_inference_steps": 6, "guidance_scale": 3.0,
    "max_sequence_length": TEXT_LENGTH, "output_type": "latent",
}  # fmt: skip

CASES = {
    "ltx": Case(
        build=ltx,
        call=CALL,
        sites={"full": 2, "cross": 2, "mlp": 2},
        branches=frozenset({("transformer", "cond_uncond")}),
    ),
    "ltx-image": Case(
        batch={"image": [image()] * 2},
        build=ltx_image,
        call=CALL | {"image": image()},
        sites={"full": 2, "cross": 2, "mlp": 2},
        branches=frozenset({("transformer", "cond_uncond")}),
    ),
}
