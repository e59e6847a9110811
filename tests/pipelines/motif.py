"""Motif-Video."""

import torch
from diffusers import (
    ClassifierFreeGuidance,
    FlowMatchEulerDiscreteScheduler,
    MotifVideoPipeline,
    MotifVideoTransformer3DModel,
)
from transformers import SiglipVisionConfig, T5Gemma2Encoder, T5Gemma2EncoderConfig, T5Gemma2TextConfig

from tests.pipelines.parts import NEGATIVE_PROMPT, Case, tokenizer
from tests.pipelines.wan import vae


def transformer(seed: int = 0, **changes) -> MotifVideoTransformer3DModel:
    """Modulations larger than in a new model, so that every block counts."""
    torch.manual_seed(seed)
    arguments = {
        "in_channels": 33, "out_channels": 16, "num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 2,
        "num_single_layers": 2, "num_decoder_layers": 1, "mlp_ratio": 1.0, "text_embed_dim": 16,
        "rope_axes_dim": (4, 6, 6), "enable_text_cross_attention_dual": True,
        "enable_text_cross_attention_single": True,
    }  # fmt: skip
    model = MotifVideoTransformer3DModel(**arguments | changes).eval()
    for name, parameter in model.named_parameters():
        if name.endswith(".linear.weight"):
            torch.nn.init.normal_(parameter, std=1.0)
    return model


def t5gemma() -> T5Gemma2Encoder:
    torch.manual_seed(0)
    text = T5Gemma2TextConfig(
        vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, query_pre_attn_scalar=8, sliding_window=16, max_position_embeddings=64,
        dropout_rate=0.0,
    )  # fmt: skip
    vision = SiglipVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=8,
        vision_use_head=False,
    )  # fmt: skip
    return T5Gemma2Encoder(T5Gemma2EncoderConfig(text_config=text, vision_config=vision, mm_tokens_per_image=4)).eval()


def motif() -> MotifVideoPipeline:
    return MotifVideoPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True), vae=vae(), text_encoder=t5gemma(),
        tokenizer=tokenizer(), transformer=transformer(), guider=ClassifierFreeGuidance(guidance_scale=8.0),
    )  # fmt: skip


CALL = {
    "height": 32, "width": 32, "num_frames": 9, "num_inference_steps": 6, "negative_prompt": NEGATIVE_PROMPT,
    "max_sequence_length": 16, "output_type": "latent",
}  # fmt: skip

CASES = {
    "motif": Case(
        build=motif,
        call=CALL,
        sites={"full": 4, "cross": 3, "mlp": 4},
        branches=frozenset({("transformer", "pred_cond"), ("transformer", "pred_uncond")}),
    ),
}
