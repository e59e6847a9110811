"""Cosmos Predict 1 from text, Cosmos Predict 2 from an image; without torchvision, so without padding masks."""

import numpy as np
import torch
from diffusers import (
    AutoencoderKLCosmos,
    AutoencoderKLWan,
    ConfigMixin,
    Cosmos2VideoToWorldPipeline,
    CosmosTextToWorldPipeline,
    CosmosTransformer3DModel,
    EDMEulerScheduler,
    FlowMatchEulerDiscreteScheduler,
    ModelMixin,
)
from diffusers.configuration_utils import register_to_config
from PIL import Image

from tests.pipelines.parts import NEGATIVE_PROMPT, Case, t5, tokenizer

TEXT_LENGTH = 48


class ConsentingChecker(ModelMixin, ConfigMixin):
    """Stands in for `cosmos_guardrail`, whose networks cannot be had here; finds everything safe."""

    @register_to_config
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def check_text_safety(self, prompt: str) -> bool:
        return True

    def check_video_safety(self, frames: np.ndarray) -> np.ndarray:
        return frames


def transformer(seed: int = 0, **changes) -> CosmosTransformer3DModel:
    torch.manual_seed(seed)
    arguments = {
        "in_channels": 4, "out_channels": 4, "num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 2,
        "mlp_ratio": 2, "text_embed_dim": 32, "adaln_lora_dim": 4, "max_size": (4, 8, 8), "rope_scale": (2.0, 1.0, 1.0),
        "concat_padding_mask": False,
    }  # fmt: skip
    network = CosmosTransformer3DModel(**arguments | changes).eval()
    if network.learnable_pos_embed is not None:
        for parameter in network.learnable_pos_embed.parameters():
            torch.nn.init.normal_(parameter)
    return network


def vae() -> AutoencoderKLCosmos:
    torch.manual_seed(0)
    return AutoencoderKLCosmos(
        latent_channels=4, encoder_block_out_channels=(8, 8, 8, 8), decode_block_out_channels=(8, 8, 8, 8),
        attention_resolutions=(8,), resolution=64, num_layers=1, temporal_compression_ratio=4,
    ).eval()  # fmt: skip


def wan_vae() -> AutoencoderKLWan:
    torch.manual_seed(0)
    return AutoencoderKLWan(
        base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True]
    ).eval()


def image() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))


def cosmos1() -> CosmosTextToWorldPipeline:
    scheduler = EDMEulerScheduler(
        sigma_min=0.002, sigma_max=80.0, sigma_data=0.5, sigma_schedule="karras", prediction_type="epsilon", rho=7.0,
        final_sigmas_type="sigma_min",
    )  # fmt: skip
    return CosmosTextToWorldPipeline(
        tokenizer=tokenizer(TEXT_LENGTH), text_encoder=t5(), vae=vae(), scheduler=scheduler,
        transformer=transformer(), safety_checker=ConsentingChecker(),
    )  # fmt: skip


def cosmos2() -> Cosmos2VideoToWorldPipeline:
    return Cosmos2VideoToWorldPipeline(
        tokenizer=tokenizer(TEXT_LENGTH), text_encoder=t5(), vae=wan_vae(),
        scheduler=FlowMatchEulerDiscreteScheduler(use_karras_sigmas=True),
        transformer=transformer(in_channels=17, out_channels=16, extra_pos_embed_type=None),
        safety_checker=ConsentingChecker(),
    )  # fmt: skip


CALL = {
    "height": 32, "width": 32, "num_frames": 9, "num_inference_steps": 6, "guidance_scale": 7.0,
    "negative_prompt": NEGATIVE_PROMPT, "max_sequence_length": TEXT_LENGTH, "output_type": "latent",
}  # fmt: skip

CASES = {
    "cosmos-1": Case(
        build=cosmos1,
        call=CALL,
        sites={"full": 2, "cross": 2, "mlp": 2},
        branches=frozenset({("transformer", "all"), ("transformer", "all#1")}),
    ),
    "cosmos-2": Case(
        batch={"image": [image()] * 2},
        build=cosmos2,
        call=CALL | {"image": image()},
        sites={"full": 2, "cross": 2, "mlp": 2},
        branches=frozenset({("transformer", "all"), ("transformer", "all#1")}),
    ),
}
