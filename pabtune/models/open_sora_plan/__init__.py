"""Open-Sora-Plan v1.1: its transformer, its causal video VAE, its text-to-video pipeline, and where they were published."""

from pabtune.models.open_sora_plan.pipeline import OpenSoraPlanPipeline, OpenSoraPlanPipelineOutput
from pabtune.models.open_sora_plan.transformer import LatteT2VTransformer3DModel
from pabtune.models.open_sora_plan.vae import AutoencoderKLOpenSoraPlan

__all__ = [
    "AutoencoderKLOpenSoraPlan",
    "LatteT2VTransformer3DModel",
    "OpenSoraPlanPipeline",
    "OpenSoraPlanPipelineOutput",
]
