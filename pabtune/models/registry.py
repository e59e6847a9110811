"""From the word MODEL on the command line to a loaded pipeline."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from huggingface_hub.errors import HFValidationError
from torch import nn

from pabtune.models.open_sora import OpenSoraPipeline
from pabtune.models.shapes.pipeline import ShapesPipeline
from pabtune.records.errors import ModelError

SHAPES_FOLDER = Path(str(files("pabtune.models.shapes"))) / "weights"

PIPELINES: Mapping[str, type[DiffusionPipeline]] = {
    "ShapesPipeline": ShapesPipeline,
    "OpenSoraPipeline": OpenSoraPipeline,
}
"""Pipeline classes of pabtune's own, by the class name in `model_index.json`."""

REGISTERED: Mapping[str, Path] = {"shapes": SHAPES_FOLDER}
"""Models that come with pabtune."""

MODEL_LINES: Mapping[str, str] = {
    "shapes": "embedded STDiT3 (1.0 M parameters): 8 frames of 24x24 pixels of one moving shape, trained in this project",
}


def load_pipeline(model: str, dtype: torch.dtype = torch.float32, device: str = "cpu") -> DiffusionPipeline:
    """Loads a registered model, a local folder, or a hub id that diffusers can load.

    Args:
        model: name, folder or hub id.
        dtype: precision of the weights.
        device: where to put it.

    Raises:
        ModelError: there is no such model, or it cannot be loaded.
    """
    place = _place(model)
    pipeline_class = PIPELINES.get(_index(model)["_class_name"], DiffusionPipeline)
    with _told(model):
        pipeline = pipeline_class.from_pretrained(place, dtype=dtype)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


def transformers_on_meta(model: str) -> dict[str, nn.Module]:
    """The transformers of a model by name, from their configurations alone: without weights, in no memory.

    Args:
        model: name, folder or hub id.

    Raises:
        ModelError: there is no such model, it has no transformer, or diffusers does not know its class.
    """
    place, found = _place(model), {}
    for name, entry in _index(model).items():
        if not name.startswith("transformer") or not isinstance(entry, list) or entry[1] is None:
            continue
        library, class_name = entry
        with _told(model), torch.device("meta"):
            transformer_class = getattr(import_module(library), class_name)
            found[name] = transformer_class.from_config(transformer_class.load_config(place, subfolder=name))
    if not found:
        raise ModelError(f"{model!r} has no component named transformer")
    return found


def _place(model: str) -> str:
    """What diffusers is asked for: a folder or a hub id."""
    folder = REGISTERED.get(model, Path(model))
    if (folder / "model_index.json").is_file():
        return str(folder)
    if folder.exists():
        raise ModelError(f"{folder}: not a diffusers pipeline folder: it has no model_index.json")
    if model.count("/") != 1 or model.startswith((".", "/", "~")):
        raise ModelError(
            f"unknown model {model!r}; registered models: {', '.join(REGISTERED)}; or give a folder, or a hub id owner/name"
        )
    return model


def _index(model: str) -> dict[str, Any]:
    """What is in the pipeline: class and components."""
    place = _place(model)
    with _told(model):
        index = DiffusionPipeline.load_config(place)
    if not isinstance(index.get("_class_name"), str):
        raise ModelError(f"{place}/model_index.json: not a diffusers pipeline: it names no class")
    return index


@contextmanager
def _told(model: str) -> Iterator[None]:
    """Turns what diffusers raises into one line."""
    try:
        yield
    except (OSError, ValueError, AttributeError, KeyError, ImportError, HFValidationError) as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(f"cannot load {model!r}: {first_line}") from error
