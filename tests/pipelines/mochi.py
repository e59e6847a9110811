"""Mochi 1."""

import torch
from diffusers import AutoencoderKLMochi, FlowMatchEulerDiscreteScheduler, MochiPipeline, MochiTransformer3DModel

from tests.pipelines.parts import Case, t5, tokenizer


def transformer(seed: int = 0, **changes) -> MochiTransformer3DModel:
    torch.manual_seed(seed)
    arguments = {
        "patch_size": 2, "num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 2,
        "pooled_projection_dim": 12, "in_channels": 12, "text_embed_dim": 32, "time_embed_dim": 8,
        "max_sequence_length": 16,
    }  # fmt: skip
    model = MochiTransformer3DModel(**arguments | changes).eval()
    torch.nn.init.normal_(model.pos_frequencies)
    return model


def vae() -> AutoencoderKLMochi:
    torch.manual_seed(0)
    return AutoencoderKLMochi(
        encoder_block_out_channels=(32, 32, 32, 32), decoder_block_out_channels=(32, 32, 32, 32),
        layers_per_block=(1, 1, 1, 1, 1),
    ).eval()  # fmt: skip


def mochi() -> MochiPipeline:
    return MochiPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(invert_sigmas=True), vae=vae(), text_encoder=t5(),
        tokenizer=tokenizer(), transformer=transformer(),
    )  # fmt: skip


CALL = {
    "height": 32, "width": 32, "num_frames": 13, "num_inference_steps": 6, "guidance_scale": 4.5,
    "max_sequence_length": 16, "output_type": "latent",
}  # fmt: skip

CASES = {
    "mochi": Case(
        build=mochi,
        call=CALL,
        sites={"full": 2, "mlp": 3},
        branches=frozenset({("transformer", "cond_uncond")}),
    ),
}
