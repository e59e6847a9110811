"""Loading of Open-Sora-Plan v1.1 from its repository, with a folder for each part, and a T5-XXL encoder."""

import inspect
import json
from pathlib import Path

import torch
from diffusers import PNDMScheduler
from diffusers.models.modeling_utils import ModelMixin
from transformers import AutoTokenizer, T5EncoderModel

from pabtune.models.open_sora_plan.pipeline import OpenSoraPlanPipeline
from pabtune.models.open_sora_plan.transformer import LatteT2VTransformer3DModel
from pabtune.models.open_sora_plan.vae import AutoencoderKLOpenSoraPlan
from pabtune.models.published import load_published, published_file

REPOSITORY = "LanguageBind/Open-Sora-Plan-v1.1.0"
TEXT_ENCODER = "DeepFloyd/t5-v1_1-xxl"
TRAINED_LENGTHS = ("65x512x512", "221x512x512")
"""Folders of the published transformers, named after the video sizes that they were trained for."""


def load_open_sora_plan(
    repository: str | Path = REPOSITORY,
    text_encoder: str | Path = TEXT_ENCODER,
    trained_for: str = TRAINED_LENGTHS[0],
    dtype: torch.dtype = torch.float32,
) -> OpenSoraPlanPipeline:
    """Assembles the pipeline from its published parts, with tiled decoding; `save_pretrained` then writes it as one folder.

    Args:
        repository: folder or hub id with a folder for the VAE and one for each transformer.
        text_encoder: folder or hub id of a T5 encoder with its tokenizer.
        trained_for: folder of the transformer.
        dtype: precision of the weights.

    Raises:
        OSError: a part cannot be found.
        ValueError: the weights of a part do not fit the model.
    """

    def load(model_class: type[ModelMixin], folder: str) -> ModelMixin:
        config = json.loads(published_file(repository, f"{folder}/config.json").read_text(encoding="utf-8"))
        parameters = inspect.signature(model_class.__init__).parameters
        config = {name: value for name, value in config.items() if name in parameters}
        # The file also holds the loss networks that the VAE was trained with.
        return load_published(model_class, repository, config, dtype, folder=folder, ignored=("loss.",))

    vae = load(AutoencoderKLOpenSoraPlan, "vae")
    vae.enable_tiling()
    return OpenSoraPlanPipeline(
        tokenizer=AutoTokenizer.from_pretrained(text_encoder),
        text_encoder=T5EncoderModel.from_pretrained(text_encoder, dtype=dtype).eval(),
        vae=vae,  # type: ignore[arg-type]
        transformer=load(LatteT2VTransformer3DModel, trained_for),  # type: ignore[arg-type]
        scheduler=PNDMScheduler(),
    )
