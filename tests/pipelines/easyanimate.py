"""EasyAnimate 5.1."""

import torch
from diffusers import (
    AutoencoderKLMagvit,
    EasyAnimatePipeline,
    EasyAnimateTransformer3DModel,
    FlowMatchEulerDiscreteScheduler,
)
from transformers import PreTrainedTokenizerFast, Qwen2VLConfig, Qwen2VLForConditionalGeneration

from tests.pipelines.parts import NEGATIVE_PROMPT, Case, tokenizer


def transformer(seed: int = 0, **changes) -> EasyAnimateTransformer3DModel:
    torch.manual_seed(seed)
    arguments = {
        "num_attention_heads": 2, "attention_head_dim": 16, "in_channels": 4, "out_channels": 4, "patch_size": 2,
        "sample_width": 4, "sample_height": 4, "num_layers": 2, "mmdit_layers": 2, "time_embed_dim": 8,
        "text_embed_dim": 16, "add_norm_text_encoder": True,
    }  # fmt: skip
    return EasyAnimateTransformer3DModel(**arguments | changes).eval()


def vae() -> AutoencoderKLMagvit:
    torch.manual_seed(0)
    return AutoencoderKLMagvit(
        down_block_types=("SpatialDownBlock3D", "SpatialTemporalDownBlock3D", "SpatialTemporalDownBlock3D"),
        up_block_types=("SpatialUpBlock3D", "SpatialTemporalUpBlock3D", "SpatialTemporalUpBlock3D"),
        block_out_channels=(8, 8, 8), latent_channels=4, layers_per_block=1, norm_num_groups=2,
        spatial_group_norm=False,
    ).eval()  # fmt: skip


def text_encoder() -> Qwen2VLForConditionalGeneration:
    torch.manual_seed(0)
    text = {
        "vocab_size": 32, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 2, "initializer_range": 0.2, "bos_token_id": None, "eos_token_id": 1, "pad_token_id": 0,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]},
    }  # fmt: skip
    vision = {"depth": 1, "embed_dim": 8, "hidden_size": 16, "num_heads": 2, "mlp_ratio": 1}
    return Qwen2VLForConditionalGeneration(Qwen2VLConfig(text_config=text, vision_config=vision)).eval()


def chat_tokenizer() -> PreTrainedTokenizerFast:
    chat = tokenizer(max_length=256)
    chat.chat_template = (
        "{% for message in messages %}{% for part in message['content'] %}{{ part['text'] }}{% endfor %}{% endfor %}"
    )
    return chat


def easyanimate() -> EasyAnimatePipeline:
    return EasyAnimatePipeline(
        vae=vae(), text_encoder=text_encoder(), tokenizer=chat_tokenizer(), transformer=transformer(),
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )  # fmt: skip


CALL = {
    "height": 16, "width": 16, "num_frames": 5, "num_inference_steps": 6, "guidance_scale": 5.0,
    "negative_prompt": NEGATIVE_PROMPT, "output_type": "latent",
}  # fmt: skip

CASES = {
    "easyanimate": Case(
        takes_batches=False,
        build=easyanimate,
        call=CALL,
        sites={"full": 2, "mlp": 4},
        branches=frozenset({("transformer", "all")}),
    ),
}
