"""SANA-Video: linear self-attention, an MLP with a temporal convolution."""

import torch
from diffusers import AutoencoderKLWan, DPMSolverMultistepScheduler, SanaVideoPipeline, SanaVideoTransformer3DModel
from transformers import Gemma2Config, Gemma2Model

from tests.pipelines.parts import Case, tokenizer

TEXT_LENGTH = 48


def transformer(seed: int = 0, **changes) -> SanaVideoTransformer3DModel:
    torch.manual_seed(seed)
    arguments = {
        "in_channels": 16, "out_channels": 16, "num_attention_heads": 2, "attention_head_dim": 12, "num_layers": 2,
        "num_cross_attention_heads": 2, "cross_attention_head_dim": 12, "cross_attention_dim": 24,
        "caption_channels": 16, "mlp_ratio": 2.0, "rope_max_seq_len": 32,
    }  # fmt: skip
    return SanaVideoTransformer3DModel(**arguments | changes).eval()


def text_encoder() -> Gemma2Model:
    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, max_position_embeddings=64,
    )  # fmt: skip
    return Gemma2Model(config).eval()


def vae() -> AutoencoderKLWan:
    torch.manual_seed(0)
    return AutoencoderKLWan(
        base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True]
    ).eval()


def scheduler() -> DPMSolverMultistepScheduler:
    return DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=8.0)


def sana() -> SanaVideoPipeline:
    return SanaVideoPipeline(
        tokenizer=tokenizer(TEXT_LENGTH), text_encoder=text_encoder(), vae=vae(), scheduler=scheduler(),
        transformer=transformer(),
    )  # fmt: skip


CASES = {
    "sana-video": Case(
        build=sana,
        call={
            "height": 32, "width": 32, "frames": 9, "num_inference_steps": 6, "guidance_scale": 6.0,
            "max_sequence_length": TEXT_LENGTH, "complex_human_instruction": None, "use_resolution_binning": False,
            "output_type": "latent",
        },
        sites={"full": 2, "cross": 2, "mlp": 2},
        branches=frozenset({("transformer", "all")}),
    ),
}  # fmt: skip
