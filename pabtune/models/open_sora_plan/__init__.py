"""Open-Sora-Plan v1.1: transformer, causal video VAE, text-to-video pipeline, and loading of the published weights."""

from pabtune.models.open_sora_plan.pipeline import OpenSoraPlanPipeline, OpenSoraPlanPipelineOutput
from pabtune.models.open_sora_plan.transformer import LatteT2VTransformer3DModel
from pabtune.models.open_sora_plan.vae import AutoencoderKLOpenSoraPlan

__all__ = [
    "AutoencoderKLOpenSoraPlan",
    "LatteT2VTransformer3DModel",
    "OpenSoraPlanPipeline",
    "OpenSoraPlanPipelineOutput",
]
