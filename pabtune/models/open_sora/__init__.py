"""Open-Sora 1.2: its video VAE, its text-to-video pipeline, and where its published weights are."""

from pabtune.models.open_sora.pipeline import OpenSoraPipeline, OpenSoraPipelineOutput
from pabtune.models.open_sora.vae import AutoencoderKLOpenSora

__all__ = ["AutoencoderKLOpenSora", "OpenSoraPipeline", "OpenSoraPipelineOutput"]
