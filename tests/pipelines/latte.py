"""Latte 1."""

import torch
from diffusers import AutoencoderKL, DDIMScheduler, LattePipeline, LatteTransformer3DModel

from tests.pipelines.parts import Case, t5, tokenizer


def transformer(seed: int = 0, **changes) -> LatteTransformer3DModel:
    torch.manual_seed(seed)
    arguments = {
        "num_attention_heads": 2, "attention_head_dim": 8, "in_channels": 4, "out_channels": 8, "num_layers": 2,
        "cross_attention_dim": 16, "attention_bias": True, "sample_size": 4, "patch_size": 2,
        "activation_fn": "gelu-approximate", "num_embeds_ada_norm": 1000, "norm_type": "ada_norm_single",
        "norm_elementwise_affine": False, "norm_eps": 1e-6, "caption_channels": 32, "video_length": 3,
    }  # fmt: skip
    return LatteTransformer3DModel(**arguments | changes).eval()


def vae() -> AutoencoderKL:
    torch.manual_seed(0)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 8, 8), norm_num_groups=2, sample_size=16,
    ).eval()  # fmt: skip


def latte() -> LattePipeline:
    return LattePipeline(
        tokenizer=tokenizer(max_length=120), text_encoder=t5(), vae=vae(), transformer=transformer(),
        scheduler=DDIMScheduler(beta_start=0.0001, beta_end=0.02, beta_schedule="linear", clip_sample=False),
    )  # fmt: skip


CALL = {
    "height": 16, "width": 16, "video_length": 3, "num_inference_steps": 6, "guidance_scale": 7.5,
    "clean_caption": False, "output_type": "latent",
}  # fmt: skip

CASES = {
    "latte": Case(
        build=latte,
        call=CALL,
        sites={"spatial": 2, "temporal": 2, "cross": 2, "mlp": 4},
        branches=frozenset({("transformer", "all")}),
    ),
}
