"""Open-Sora 1.2: video VAE, text-to-video pipeline, and loading of the published weights."""

from pabtune.models.open_sora.pipeline import OpenSoraPipeline, OpenSoraPipelineOutput
from pabtune.models.open_sora.vae import AutoencoderKLOpenSora

__all__ = ["AutoencoderKLOpenSora", "OpenSoraPipeline", "OpenSoraPipelineOutput"]
