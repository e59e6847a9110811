"""Where Open-Sora-Plan v1.1 was published: one repository with a folder for each part, and a T5-XXL encoder."""

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
"""Folders of transformers: the sizes that they were trained for."""


def load_open_sora_plan(
    repository: str | Path = REPOSITORY,
    text_encoder: str | Path = TEXT_ENCODER,
    trained_for: str = TRAINED_LENGTHS[0],
    dtype: torch.dtype = torch.float32,
) -> OpenSoraPlanPipeline:
    """The pipeline from its published parts, decoding in tiles; `save_pretrained` makes one folder of them.

    Args:
        repository: folder or hub id with a folder for the VAE and one for each transformer.
        text_encoder: folder or hub id of a T5 encoder with its tokenizer.
        trained_for: folder of the transformer.
        dtype: precision of the weights.

    Raises:
        OSError: a part cannot be found.
        ValueError: its weights are not those of the model.
    """

    def load(model_class: type[ModelMixin], folder: str) -> ModelMixin:
        config = json.loads(published_file(repository, f"{folder}/config.json").read_text(encoding="utf-8"))
        known = inspect.signature(model_class.__init__).parameters
        config = {name: value for name, value in config.items() if name in known}
        # What the training of the VAE needed besides lies in the same file.
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
