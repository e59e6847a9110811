"""Loading of Open-Sora 1.2 from the three repositories that it was published in."""

import inspect
import json
from pathlib import Path

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from transformers import AutoTokenizer, T5EncoderModel

from pabtune.models.open_sora.pipeline import OpenSoraPipeline
from pabtune.models.open_sora.vae import AutoencoderKLOpenSora
from pabtune.models.published import load_published, published_file
from pabtune.models.stdit3 import STDiT3Transformer3DModel

TRANSFORMER = "hpcai-tech/OpenSora-STDiT-v3"
VAE = "hpcai-tech/OpenSora-VAE-v1.2"
TEXT_ENCODER = "DeepFloyd/t5-v1_1-xxl"


def load_open_sora(
    transformer: str | Path = TRANSFORMER,
    vae: str | Path = VAE,
    text_encoder: str | Path = TEXT_ENCODER,
    dtype: torch.dtype = torch.float32,
    vae_config: dict[str, object] | None = None,
) -> OpenSoraPipeline:
    """Assembles the pipeline from its published parts; `save_pretrained` then writes it as one folder.

    Args:
        transformer: folder or hub id with the published `config.json` and weights.
        vae: folder or hub id with the published weights.
        text_encoder: folder or hub id of a T5 encoder with its tokenizer.
        dtype: precision of the weights.
        vae_config: constructor arguments of the VAE; default: the published model, whose `config.json` has other keys.

    Raises:
        OSError: a part cannot be found.
        ValueError: the weights of a part do not fit the model.
    """
    config = json.loads(published_file(transformer, "config.json").read_text(encoding="utf-8"))
    parameters = inspect.signature(STDiT3Transformer3DModel.__init__).parameters
    config = {name: value for name, value in config.items() if name in parameters}
    return OpenSoraPipeline(
        tokenizer=AutoTokenizer.from_pretrained(text_encoder),
        text_encoder=T5EncoderModel.from_pretrained(text_encoder, dtype=dtype).eval(),
        vae=load_published(AutoencoderKLOpenSora, vae, vae_config or {}, dtype),  # type: ignore[arg-type]
        transformer=load_published(STDiT3Transformer3DModel, transformer, config, dtype),  # type: ignore[arg-type]
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )
