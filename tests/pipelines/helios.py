"""Helios: chunk after chunk, each with the history of those before."""

import torch
from diffusers import HeliosPipeline, HeliosScheduler, HeliosTransformer3DModel

from tests.pipelines.parts import Case, t5, tokenizer
from tests.pipelines.wan import CALL, vae


def transformer() -> HeliosTransformer3DModel:
    torch.manual_seed(0)
    return HeliosTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=16, out_channels=16,
        text_dim=32, freq_dim=256, ffn_dim=32, num_layers=2, rope_dim=(4, 4, 4), is_amplify_history=True,
    ).eval()  # fmt: skip


def scheduler() -> HeliosScheduler:
    return HeliosScheduler(stages=1, stage_range=[0, 1], use_dynamic_shifting=True)


def helios() -> HeliosPipeline:
    return HeliosPipeline(
        tokenizer=tokenizer(), text_encoder=t5(kind="umt5"), vae=vae(), scheduler=scheduler(), transformer=transformer()
    )


CASES = {
    "helios": Case(
        build=helios,
        call=CALL | {"num_frames": 15, "num_latent_frames_per_chunk": 2, "history_sizes": [4, 2, 1]},
        sites={"full": 2, "cross": 2, "mlp": 2},
        branches=frozenset({("transformer", "cond"), ("transformer", "uncond")}),
        loops=3,
    ),
}
