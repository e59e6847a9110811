"""ConsisID: the pipeline is read from its own module, because diffusers exports it only with OpenCV installed."""

from typing import Any

import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXDPMScheduler, ConsisIDTransformer3DModel
from diffusers.pipelines.consisid.pipeline_consisid import ConsisIDPipeline

from tests.pipelines.parts import Case, t5, tokenizer


def transformer(seed: int = 0, **changes) -> ConsisIDTransformer3DModel:
    torch.manual_seed(seed)
    arguments = {
        "num_attention_heads": 2, "attention_head_dim": 16, "in_channels": 8, "out_channels": 4, "time_embed_dim": 8,
        "text_embed_dim": 32, "num_layers": 2, "sample_width": 4, "sample_height": 4, "sample_frames": 9,
        "max_text_seq_length": 16, "use_rotary_positional_embeddings": True, "is_train_face": True,
        "cross_attn_interval": 2, "cross_attn_dim_head": 8, "cross_attn_num_heads": 2, "LFE_id_dim": 8,
        "LFE_vit_dim": 8, "LFE_depth": 5, "LFE_dim_head": 4, "LFE_num_heads": 2, "LFE_num_id_token": 2,
        "LFE_num_querie": 4, "LFE_output_dim": 21, "LFE_ff_mult": 1,
    }  # fmt: skip
    return ConsisIDTransformer3DModel(**arguments | changes).eval()


def vae() -> AutoencoderKLCogVideoX:
    torch.manual_seed(0)
    return AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 3, up_block_types=("CogVideoXUpBlock3D",) * 3,
        block_out_channels=(8, 8, 8), latent_channels=4, layers_per_block=1, norm_num_groups=2, sample_height=16,
        sample_width=16,
    ).eval()  # fmt: skip


def scheduler() -> CogVideoXDPMScheduler:
    return CogVideoXDPMScheduler(
        prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing", clip_sample=False,
        snr_shift_scale=1.0,
    )  # fmt: skip


def consisid() -> ConsisIDPipeline:
    return ConsisIDPipeline(
        tokenizer=tokenizer(), text_encoder=t5(), vae=vae(), transformer=transformer(), scheduler=scheduler()
    )


def face() -> dict[str, Any]:
    """What the face encoders would give: an identity vector and five levels of image tokens."""
    generator = torch.Generator().manual_seed(0)
    return {
        "id_cond": torch.randn(1, 8, generator=generator),
        "id_vit_hidden": [torch.randn(1, 3, 8, generator=generator) for _ in range(5)],
    }


def forward_arguments(batch_size: int = 2) -> dict[str, Any]:
    """One call of `transformer()` as the pipeline makes it, but without rotary embeddings."""
    generator = torch.Generator().manual_seed(0)
    return {
        "hidden_states": torch.randn(batch_size, 3, 8, 4, 4, generator=generator),
        "encoder_hidden_states": torch.randn(batch_size, 16, 32, generator=generator),
        "timestep": torch.full((batch_size,), 500),
    } | face()


CALL = {
    "image": torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)), "height": 16, "width": 16,
    "num_frames": 9, "num_inference_steps": 6, "guidance_scale": 6.0, "max_sequence_length": 16,
    "output_type": "latent",
}  # fmt: skip

CASES = {
    "consisid": Case(
        batch={"image": [CALL["image"]] * 2},
        build=consisid,
        call=CALL | face(),
        sites={"full": 2, "cross": 1, "mlp": 2},
        branches=frozenset({("transformer", "all")}),
        loader=ConsisIDPipeline,
    ),
}
