"""Allegro."""

import torch
from diffusers import (
    AllegroPipeline,
    AllegroTransformer3DModel,
    AutoencoderKLAllegro,
    EulerAncestralDiscreteScheduler,
)

from tests.pipelines.parts import Case, t5, tokenizer


def transformer(seed: int = 0, **changes) -> AllegroTransformer3DModel:
    torch.manual_seed(seed)
    arguments = {
        "num_attention_heads": 2, "attention_head_dim": 12, "in_channels": 4, "out_channels": 4, "num_layers": 2,
        "cross_attention_dim": 24, "sample_height": 4, "sample_width": 4, "sample_frames": 2, "caption_channels": 32,
    }  # fmt: skip
    return AllegroTransformer3DModel(**arguments | changes).eval()


def vae() -> AutoencoderKLAllegro:
    torch.manual_seed(0)
    return AutoencoderKLAllegro(
        down_block_types=("AllegroDownBlock3D",) * 3, up_block_types=("AllegroUpBlock3D",) * 3,
        block_out_channels=(8, 8, 8), temporal_downsample_blocks=(True, True, False),
        temporal_upsample_blocks=(False, True, True), latent_channels=4, layers_per_block=1, norm_num_groups=2,
    ).eval()  # fmt: skip


def allegro() -> AllegroPipeline:
    return AllegroPipeline(
        tokenizer=tokenizer(), text_encoder=t5(), vae=vae(), transformer=transformer(),
        scheduler=EulerAncestralDiscreteScheduler(
            beta_start=0.0001, beta_end=0.02, beta_schedule="linear", timestep_spacing="leading"
        ),
    )  # fmt: skip


CALL = {
    "height": 16, "width": 16, "num_frames": 8, "num_inference_steps": 6, "guidance_scale": 7.5,
    "max_sequence_length": 16, "clean_caption": False, "output_type": "latent",
}  # fmt: skip

CASES = {
    "allegro": Case(
        build=allegro,
        call=CALL,
        sites={"full": 2, "cross": 2, "mlp": 2},
        branches=frozenset({("transformer", "all")}),
    ),
}
