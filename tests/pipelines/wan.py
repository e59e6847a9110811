"""Wan 2.1 and 2.2."""

import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel

from tests.pipelines.parts import Case, t5, tokenizer


def transformer(seed: int = 0, **changes) -> WanTransformer3DModel:
    torch.manual_seed(seed)
    arguments = {
        "patch_size": (1, 2, 2), "num_attention_heads": 2, "attention_head_dim": 12, "in_channels": 16,
        "out_channels": 16, "text_dim": 32, "freq_dim": 256, "ffn_dim": 32, "num_layers": 2, "cross_attn_norm": True,
        "qk_norm": "rms_norm_across_heads", "rope_max_seq_len": 32,
    }  # fmt: skip
    return WanTransformer3DModel(**arguments | changes).eval()


def vae() -> AutoencoderKLWan:
    torch.manual_seed(0)
    return AutoencoderKLWan(
        base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True]
    ).eval()


def scheduler() -> UniPCMultistepScheduler:
    return UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)


def wan21() -> WanPipeline:
    return WanPipeline(
        tokenizer=tokenizer(), text_encoder=t5(kind="umt5"), vae=vae(), scheduler=scheduler(), transformer=transformer()
    )


def wan22() -> WanPipeline:
    return WanPipeline(
        tokenizer=tokenizer(), text_encoder=t5(kind="umt5"), vae=vae(), scheduler=scheduler(),
        transformer=transformer(), transformer_2=transformer(seed=1), boundary_ratio=0.8,
    )  # fmt: skip


CALL = {
    "height": 16, "width": 16, "num_frames": 9, "num_inference_steps": 6, "guidance_scale": 5.0,
    "max_sequence_length": 16, "output_type": "latent",
}  # fmt: skip

CASES = {
    "wan-2.1": Case(
        build=wan21,
        call=CALL,
        sites={"full": 2, "cross": 2, "mlp": 2},
        branches=frozenset({("transformer", "cond"), ("transformer", "uncond")}),
    ),
    "wan-2.2": Case(
        build=wan22,
        call=CALL,
        sites={"full": 4, "cross": 4, "mlp": 4},
        branches=frozenset(
            (name, branch) for name in ("transformer", "transformer_2") for branch in ("cond", "uncond")
        ),
    ),
}
