"""ChronoEdit."""

import torch
from diffusers import ChronoEditPipeline, ChronoEditTransformer3DModel

from tests.pipelines.parts import Case, t5, tokenizer
from tests.pipelines.wan import CALL, scheduler, vae
from tests.pipelines.wan_image import (
    IMAGE,
    IMAGE_CHANNELS,
    TEXT_TOKENS,
    image_encoder,
    image_processor,
)


def transformer() -> ChronoEditTransformer3DModel:
    torch.manual_seed(0)
    return ChronoEditTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=IMAGE_CHANNELS,
        out_channels=16, text_dim=32, freq_dim=256, ffn_dim=32, num_layers=2, rope_max_seq_len=32, image_dim=32,
        added_kv_proj_dim=24,
    ).eval()  # fmt: skip


def chronoedit() -> ChronoEditPipeline:
    return ChronoEditPipeline(
        tokenizer=tokenizer(), text_encoder=t5(kind="umt5"), image_encoder=image_encoder(),
        image_processor=image_processor(), transformer=transformer(), vae=vae(), scheduler=scheduler(),
    )  # fmt: skip


EDIT = CALL | {"image": IMAGE, "max_sequence_length": TEXT_TOKENS}
SITES = {"full": 2, "cross": 2, "mlp": 2}
UNNAMED = frozenset({("transformer", "all"), ("transformer", "all#1")})

CASES = {
    "chronoedit": Case(build=chronoedit, call=EDIT, sites=SITES, branches=UNNAMED),
    "chronoedit-reasoning": Case(
        build=chronoedit,
        call=EDIT | {"enable_temporal_reasoning": True, "num_temporal_reasoning_steps": 3},
        sites=SITES,
        branches=UNNAMED,
    ),
}
