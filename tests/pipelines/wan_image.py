"""Wan 2.1, Wan 2.2 and Wan 2.2 TI2V from an image, and Wan VACE."""

import torch
from diffusers import WanImageToVideoPipeline, WanVACEPipeline, WanVACETransformer3DModel
from PIL import Image
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

from tests.pipelines.parts import Case, t5, tokenizer
from tests.pipelines.wan import CALL, scheduler, transformer, vae

IMAGE = Image.radial_gradient("L").resize((16, 16)).convert("RGB")

IMAGE_CHANNELS = 36
"""Noise, mask of known frames, and the encoded image."""

TEXT_TOKENS = 512
"""Transformers with image tokens tell them from the text by this number, which is in the code of diffusers."""


def image_processor() -> CLIPImageProcessor:
    return CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})


def image_encoder() -> CLIPVisionModel:
    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=32, intermediate_size=37, num_hidden_layers=2, num_attention_heads=2, image_size=16, patch_size=8
    )
    return CLIPVisionModel(config).eval()


def vace_transformer() -> WanVACETransformer3DModel:
    torch.manual_seed(0)
    return WanVACETransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=16, out_channels=16,
        text_dim=32, freq_dim=256, ffn_dim=32, num_layers=2, rope_max_seq_len=32, vace_layers=[0, 1],
        vace_in_channels=96,
    ).eval()  # fmt: skip


def wan21_image() -> WanImageToVideoPipeline:
    return WanImageToVideoPipeline(
        tokenizer=tokenizer(), text_encoder=t5(kind="umt5"), vae=vae(), scheduler=scheduler(),
        image_processor=image_processor(), image_encoder=image_encoder(),
        transformer=transformer(in_channels=IMAGE_CHANNELS, image_dim=32, added_kv_proj_dim=24),
    )  # fmt: skip


def wan22_image() -> WanImageToVideoPipeline:
    return WanImageToVideoPipeline(
        tokenizer=tokenizer(), text_encoder=t5(kind="umt5"), vae=vae(), scheduler=scheduler(),
        transformer=transformer(in_channels=IMAGE_CHANNELS),
        transformer_2=transformer(seed=1, in_channels=IMAGE_CHANNELS), boundary_ratio=0.8,
    )  # fmt: skip


def wan22_text_image() -> WanImageToVideoPipeline:
    return WanImageToVideoPipeline(
        tokenizer=tokenizer(), text_encoder=t5(kind="umt5"), vae=vae(), scheduler=scheduler(),
        transformer=transformer(), expand_timesteps=True,
    )  # fmt: skip


def vace() -> WanVACEPipeline:
    return WanVACEPipeline(
        tokenizer=tokenizer(), text_encoder=t5(kind="umt5"), vae=vae(), scheduler=scheduler(),
        transformer=vace_transformer(),
    )  # fmt: skip


BOTH = frozenset({("transformer", "cond"), ("transformer", "uncond")})

CASES = {
    "wan-2.1-image": Case(
        build=wan21_image,
        call=CALL | {"image": IMAGE, "max_sequence_length": TEXT_TOKENS},
        sites={"full": 2, "cross": 2, "mlp": 2},
        branches=BOTH,
    ),
    "wan-2.2-image": Case(
        build=wan22_image,
        call=CALL | {"image": IMAGE},
        sites={"full": 4, "cross": 4, "mlp": 4},
        branches=BOTH | {("transformer_2", "cond"), ("transformer_2", "uncond")},
    ),
    "wan-2.2-text-image": Case(
        build=wan22_text_image,
        call=CALL | {"image": IMAGE},
        sites={"full": 2, "cross": 2, "mlp": 2},
        branches=BOTH,
    ),
    "wan-vace": Case(
        takes_batches=False,
        build=vace,
        call=CALL | {"reference_images": [IMAGE]},
        sites={"full": 4, "cross": 4, "mlp": 4},
        branches=BOTH,
    ),
}
