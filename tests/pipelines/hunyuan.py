"""HunyuanVideo (true CFG and distilled guidance), HunyuanVideo 1.5 and Framepack."""

import torch
from diffusers import (
    AutoencoderKLHunyuanVideo,
    AutoencoderKLHunyuanVideo15,
    ClassifierFreeGuidance,
    FlowMatchEulerDiscreteScheduler,
    HunyuanVideo15Pipeline,
    HunyuanVideo15Transformer3DModel,
    HunyuanVideoFramepackPipeline,
    HunyuanVideoFramepackTransformer3DModel,
    HunyuanVideoPipeline,
    HunyuanVideoTransformer3DModel,
)
from PIL import Image
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    LlamaConfig,
    LlamaModel,
    PreTrainedTokenizerFast,
    Qwen2_5_VLTextConfig,
    Qwen2_5_VLTextModel,
    SiglipImageProcessorPil,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from tests.pipelines.parts import NEGATIVE_PROMPT, Case, t5, tokenizer

DUAL_AND_SINGLE = {
    "in_channels": 4, "out_channels": 4, "num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 2,
    "num_single_layers": 2, "num_refiner_layers": 1, "mlp_ratio": 1.0, "patch_size": 2, "patch_size_t": 1,
    "text_embed_dim": 16, "pooled_projection_dim": 16, "rope_axes_dim": (4, 6, 6),
}  # fmt: skip


def transformer(seed: int = 0, **changes) -> HunyuanVideoTransformer3DModel:
    torch.manual_seed(seed)
    return HunyuanVideoTransformer3DModel(**DUAL_AND_SINGLE | changes).eval()


def transformer15(seed: int = 0, **changes) -> HunyuanVideo15Transformer3DModel:
    torch.manual_seed(seed)
    arguments = {
        "in_channels": 9, "out_channels": 4, "num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 2,
        "num_refiner_layers": 1, "mlp_ratio": 1.0, "text_embed_dim": 16, "text_embed_2_dim": 32,
        "image_embed_dim": 16, "rope_axes_dim": (4, 2, 2), "task_type": "t2v",
    }  # fmt: skip
    return HunyuanVideo15Transformer3DModel(**arguments | changes).eval()


def transformer_framepack(seed: int = 0, **changes) -> HunyuanVideoFramepackTransformer3DModel:
    torch.manual_seed(seed)
    arguments = DUAL_AND_SINGLE | {"has_image_proj": True, "image_proj_dim": 16, "has_clean_x_embedder": True}
    return HunyuanVideoFramepackTransformer3DModel(**arguments | changes).eval()


def vae() -> AutoencoderKLHunyuanVideo:
    torch.manual_seed(0)
    return AutoencoderKLHunyuanVideo(
        latent_channels=4, block_out_channels=(4, 4, 4, 4), layers_per_block=1, norm_num_groups=2
    ).eval()


def vae15() -> AutoencoderKLHunyuanVideo15:
    torch.manual_seed(0)
    return AutoencoderKLHunyuanVideo15(
        latent_channels=4, block_out_channels=(16, 16, 16, 16, 16), layers_per_block=1
    ).eval()


def llama() -> LlamaModel:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=3, num_attention_heads=2,
        max_position_embeddings=64, pad_token_id=0, bos_token_id=2, eos_token_id=1,
    )  # fmt: skip
    return LlamaModel(config).eval()


def clip() -> CLIPTextModel:
    torch.manual_seed(0)
    config = CLIPTextConfig(
        vocab_size=32, hidden_size=16, intermediate_size=16, projection_dim=16, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=77, pad_token_id=0, bos_token_id=2, eos_token_id=1,
    )  # fmt: skip
    return CLIPTextModel(config).eval()


def qwen() -> Qwen2_5_VLTextModel:
    torch.manual_seed(0)
    config = Qwen2_5_VLTextConfig(
        vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=3, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=2048, pad_token_id=0, bos_token_id=2, eos_token_id=1,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]},
    )  # fmt: skip
    return Qwen2_5_VLTextModel(config).eval()


def chat_tokenizer() -> PreTrainedTokenizerFast:
    """Chat of 108 tokens before the user's text, as many as the pipeline cuts off."""
    chat = tokenizer(1108)
    chat.chat_template = "{{ 's' * 108 }}{{ messages[-1]['content'] }}"
    return chat


def siglip() -> SiglipVisionModel:
    torch.manual_seed(0)
    config = SiglipVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=16, patch_size=8,
    )  # fmt: skip
    return SiglipVisionModel(config).eval()


def scheduler() -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(shift=7.0)


def hunyuan() -> HunyuanVideoPipeline:
    return HunyuanVideoPipeline(
        text_encoder=llama(), tokenizer=tokenizer(), transformer=transformer(), vae=vae(), scheduler=scheduler(),
        text_encoder_2=clip(), tokenizer_2=tokenizer(77),
    )  # fmt: skip


def hunyuan15() -> HunyuanVideo15Pipeline:
    return HunyuanVideo15Pipeline(
        text_encoder=qwen(), tokenizer=chat_tokenizer(), transformer=transformer15(), vae=vae15(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=5.0), text_encoder_2=t5(), tokenizer_2=tokenizer(256),
        guider=ClassifierFreeGuidance(guidance_scale=6.0),
    )  # fmt: skip


def framepack() -> HunyuanVideoFramepackPipeline:
    return HunyuanVideoFramepackPipeline(
        text_encoder=llama(), tokenizer=tokenizer(), transformer=transformer_framepack(), vae=vae(),
        scheduler=scheduler(), text_encoder_2=clip(), tokenizer_2=tokenizer(77), image_encoder=siglip(),
        feature_extractor=SiglipImageProcessorPil(size={"height": 16, "width": 16}),
    )  # fmt: skip


CALL = {
    "height": 32, "width": 32, "num_frames": 9, "num_inference_steps": 6, "guidance_scale": 6.0,
    "prompt_template": {"template": "{}", "crop_start": 0}, "max_sequence_length": 16, "output_type": "latent",
}  # fmt: skip
CALL_TRUE_CFG = CALL | {"true_cfg_scale": 5.0, "negative_prompt": NEGATIVE_PROMPT}
CALL_15 = {
    "height": 32, "width": 32, "num_frames": 9, "num_inference_steps": 6, "negative_prompt": NEGATIVE_PROMPT,
    "prompt_embeds_2": torch.zeros(1, 4, 32), "prompt_embeds_mask_2": torch.zeros(1, 4),
    "negative_prompt_embeds_2": torch.zeros(1, 4, 32), "negative_prompt_embeds_mask_2": torch.zeros(1, 4),
    "output_type": "latent",
}  # fmt: skip
CALL_FRAMEPACK = CALL_TRUE_CFG | {
    "image": Image.linear_gradient("L").resize((32, 32)).convert("RGB"), "num_frames": 15, "latent_window_size": 2,
}  # fmt: skip

SITES = {"full": 4, "mlp": 4}

CASES = {
    "hunyuan-true-cfg": Case(
        build=hunyuan,
        call=CALL_TRUE_CFG,
        sites=SITES,
        branches=frozenset({("transformer", "cond"), ("transformer", "uncond")}),
    ),
    "hunyuan-distilled": Case(
        build=hunyuan,
        call=CALL,
        sites=SITES,
        branches=frozenset({("transformer", "cond")}),
    ),
    "hunyuan-1.5": Case(
        takes_batches=False,
        build=hunyuan15,
        call=CALL_15,
        sites={"full": 2, "mlp": 4},
        branches=frozenset({("transformer", "pred_cond"), ("transformer", "pred_uncond")}),
    ),
    "hunyuan-framepack": Case(
        takes_batches=False,
        build=framepack,
        call=CALL_FRAMEPACK,
        sites=SITES,
        branches=frozenset({("transformer", "all"), ("transformer", "all#1")}),
        loops=3,
        inner_lengths=2,
    ),
}
