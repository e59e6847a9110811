"""Kandinsky 5, text to video."""

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, Kandinsky5T2VPipeline, Kandinsky5Transformer3DModel
from tokenizers import Regex, normalizers
from transformers import PreTrainedTokenizerFast, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from tests.pipelines.hunyuan import clip, vae
from tests.pipelines.parts import NEGATIVE_PROMPT, Case, tokenizer


def transformer(seed: int = 0, **changes) -> Kandinsky5Transformer3DModel:
    """Modulations are zero in a new model: with them no block would change anything."""
    torch.manual_seed(seed)
    arguments = {
        "in_visual_dim": 4, "out_visual_dim": 4, "in_text_dim": 16, "in_text_dim2": 16, "time_dim": 16,
        "model_dim": 32, "ff_dim": 32, "num_text_blocks": 1, "num_visual_blocks": 2, "axes_dims": (4, 6, 6),
    }  # fmt: skip
    model = Kandinsky5Transformer3DModel(**arguments | changes).eval()
    for name, parameter in model.named_parameters():
        if "modulation" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return model


def qwen() -> Qwen2_5_VLForConditionalGeneration:
    torch.manual_seed(0)
    text = {
        "vocab_size": 32, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 256, "pad_token_id": 0,
        "bos_token_id": 2, "eos_token_id": 1,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]},
    }  # fmt: skip
    vision = {
        "depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16,
        "fullatt_block_indexes": [0],
    }  # fmt: skip
    return Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision)).eval()


def instructed_tokenizer() -> PreTrainedTokenizerFast:
    """The instruction before the prompt takes 128 tokens, as many as the pipeline cuts off."""
    instructed = tokenizer(512)
    head = Regex(r"<\|im_start\|>system[\s\S]*<\|im_start\|>user\n")
    instructed.backend_tokenizer.normalizer = normalizers.Replace(head, "s" * 128)
    return instructed


def kandinsky5() -> Kandinsky5T2VPipeline:
    return Kandinsky5T2VPipeline(
        transformer=transformer(), vae=vae(), text_encoder=qwen(), tokenizer=instructed_tokenizer(),
        text_encoder_2=clip(), tokenizer_2=tokenizer(77), scheduler=FlowMatchEulerDiscreteScheduler(shift=5.0),
    )  # fmt: skip


CALL = {
    "height": 32, "width": 32, "num_frames": 9, "num_inference_steps": 6, "guidance_scale": 5.0,
    "negative_prompt": NEGATIVE_PROMPT, "max_sequence_length": 48, "output_type": "latent",
}  # fmt: skip

CASES = {
    "kandinsky-5": Case(
        build=kandinsky5,
        call=CALL,
        sites={"full": 2, "cross": 2, "mlp": 2},
        branches=frozenset({("transformer", "all"), ("transformer", "all#1")}),
    ),
}
