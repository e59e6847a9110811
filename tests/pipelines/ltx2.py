"""LTX-2 (one batched pass per step) and LTX-2.3 (two more passes: perturbed attention, isolated modalities)."""

import torch
from diffusers import (
    AutoencoderKLLTX2Audio,
    AutoencoderKLLTX2Video,
    FlowMatchEulerDiscreteScheduler,
    LTX2Pipeline,
    LTX2VideoTransformer3DModel,
)
from diffusers.pipelines.ltx2.connectors import LTX2TextConnectors
from diffusers.pipelines.ltx2.vocoder import LTX2Vocoder
from transformers import Gemma3Config, Gemma3ForConditionalGeneration

from tests.pipelines.parts import Case, tokenizer

TEXT_LENGTH = 48
LTX_2_3 = {
    "gated_attn": True, "audio_gated_attn": True, "cross_attn_mod": True, "audio_cross_attn_mod": True,
    "perturbed_attn": True, "use_prompt_embeddings": False, "rope_type": "split",
}  # fmt: skip


def transformer(seed: int = 0, **changes) -> LTX2VideoTransformer3DModel:
    torch.manual_seed(seed)
    arguments = {
        "in_channels": 8, "out_channels": 8, "num_attention_heads": 2, "attention_head_dim": 12,
        "cross_attention_dim": 24, "audio_in_channels": 8, "audio_out_channels": 8, "audio_num_attention_heads": 2,
        "audio_attention_head_dim": 8, "audio_cross_attention_dim": 16, "num_layers": 2, "caption_channels": 16,
        "vae_scale_factors": (2, 16, 16),
    }  # fmt: skip
    return LTX2VideoTransformer3DModel(**arguments | changes).eval()


def text_encoder() -> Gemma3ForConditionalGeneration:
    torch.manual_seed(0)
    text = {
        "vocab_size": 32, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": 64,
    }  # fmt: skip
    vision = {
        "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
        "image_size": 16, "patch_size": 8,
    }  # fmt: skip
    config = Gemma3Config(
        text_config=text, vision_config=vision, mm_tokens_per_image=4, boi_token_index=29, eoi_token_index=30,
        image_token_index=31,
    )  # fmt: skip
    return Gemma3ForConditionalGeneration(config).eval()


def connectors(**changes) -> LTX2TextConnectors:
    torch.manual_seed(0)
    arguments = {
        "caption_channels": 16, "text_proj_in_factor": 3, "video_connector_num_attention_heads": 2,
        "video_connector_attention_head_dim": 8, "video_connector_num_layers": 1,
        "video_connector_num_learnable_registers": 16, "audio_connector_num_attention_heads": 2,
        "audio_connector_attention_head_dim": 8, "audio_connector_num_layers": 1,
        "audio_connector_num_learnable_registers": 16,
    }  # fmt: skip
    return LTX2TextConnectors(**arguments | changes).eval()


def vae() -> AutoencoderKLLTX2Video:
    torch.manual_seed(0)
    return AutoencoderKLLTX2Video(
        latent_channels=8, block_out_channels=(8,), decoder_block_out_channels=(8,),
        down_block_types=("LTX2VideoDownBlock3D",), layers_per_block=(1, 1), decoder_layers_per_block=(1, 1),
        spatio_temporal_scaling=(True,), decoder_spatio_temporal_scaling=(True,), decoder_inject_noise=(False, False),
        downsample_type=("spatiotemporal",), upsample_type=("spatiotemporal",), upsample_residual=(False,),
        upsample_factor=(1,), patch_size=8,
    ).eval()  # fmt: skip


def audio_vae() -> AutoencoderKLLTX2Audio:
    torch.manual_seed(0)
    return AutoencoderKLLTX2Audio(
        base_channels=8, ch_mult=(1, 1, 1), num_res_blocks=1, resolution=16, latent_channels=2, mel_bins=16
    ).eval()


def vocoder() -> LTX2Vocoder:
    torch.manual_seed(0)
    return LTX2Vocoder(
        in_channels=32, hidden_channels=16, upsample_kernel_sizes=[4, 4], upsample_factors=[2, 2],
        resnet_kernel_sizes=[3], resnet_dilations=[[1, 3, 5]],
    ).eval()  # fmt: skip


def scheduler() -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, base_shift=0.95, max_shift=2.05, base_image_seq_len=1024, max_image_seq_len=4096,
        shift_terminal=0.1,
    )  # fmt: skip


def pipeline(network: LTX2VideoTransformer3DModel, text_connectors: LTX2TextConnectors) -> LTX2Pipeline:
    return LTX2Pipeline(
        tokenizer=tokenizer(TEXT_LENGTH), text_encoder=text_encoder(), connectors=text_connectors,
        transformer=network, vae=vae(), audio_vae=audio_vae(), vocoder=vocoder(), scheduler=scheduler(),
    )  # fmt: skip


def ltx2() -> LTX2Pipeline:
    return pipeline(transformer(), connectors())


def ltx23() -> LTX2Pipeline:
    text_connectors = connectors(
        video_connector_attention_head_dim=12, per_modality_projections=True, video_hidden_dim=24, audio_hidden_dim=16,
        video_gated_attn=True, audio_gated_attn=True, rope_type="split",
    )  # fmt: skip
    return pipeline(transformer(**LTX_2_3), text_connectors)


CALL = {
    "height": 32, "width": 32, "num_frames": 5, "num_inference_steps": 6, "guidance_scale": 3.0,
    "audio_guidance_scale": 7.0, "max_sequence_length": TEXT_LENGTH, "output_type": "latent",
}  # fmt: skip

CASES = {
    "ltx-2": Case(
        build=ltx2,
        call=CALL
        | {
            "stg_scale": 0.0, "audio_stg_scale": 0.0, "modality_scale": 1.0, "audio_modality_scale": 1.0,
            "use_cross_timestep": False,
        },
        sites={"full": 4, "cross": 8, "mlp": 4},
        branches=frozenset({("transformer", "cond_uncond")}),
    ),
    "ltx-2.3": Case(
        build=ltx23,
        call=CALL | {"spatio_temporal_guidance_blocks": [1]},
        sites={"full": 4, "cross": 8, "mlp": 4},
        branches=frozenset(("transformer", name) for name in ("cond_uncond", "uncond_stg", "uncond_modality")),
    ),
}  # fmt: skip
