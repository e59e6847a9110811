"""Where Open-Sora 1.2 was published: three repositories, put together into one pipeline."""

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
    """The pipeline from its published parts; `save_pretrained` makes one folder of them.

    Args:
        transformer: folder or hub id with the published `config.json` and weights.
        vae: folder or hub id with the published weights.
        text_encoder: folder or hub id of a T5 encoder with its tokenizer.
        dtype: precision of the weights.
        vae_config: of the VAE; default: the published one, whose `config.json` names other things.

    Raises:
        OSError: a part cannot be found.
        ValueError: its weights are not those of the model.
    """
    config = json.loads(published_file(transformer, "config.json").read_text(encoding="utf-8"))
    known = inspect.signature(STDiT3Transformer3DModel.__init__).parameters
    config = {name: value for name, value in config.items() if name in known}
    return OpenSoraPipeline(
        tokenizer=AutoTokenizer.from_pretrained(text_encoder),
        text_encoder=T5EncoderModel.from_pretrained(text_encoder, dtype=dtype).eval(),
        vae=load_published(AutoencoderKLOpenSora, vae, vae_config or {}, dtype),  # type: ignore[arg-type]
        transformer=load_published(STDiT3Transformer3DModel, transformer, config, dtype),  # type: ignore[arg-type]
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )
