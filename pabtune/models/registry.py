"""From the word MODEL on the command line to a loaded pipeline."""

import json
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from huggingface_hub.errors import HFValidationError

from pabtune.models.shapes.pipeline import ShapesPipeline
from pabtune.records.errors import ModelError

SHAPES_FOLDER = Path(str(files("pabtune.models.shapes"))) / "weights"

PIPELINES: Mapping[str, type[DiffusionPipeline]] = {"ShapesPipeline": ShapesPipeline}
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
    folder = REGISTERED.get(model, Path(model))
    pipeline_class: type[DiffusionPipeline] = DiffusionPipeline
    if (folder / "model_index.json").is_file():
        try:
            name = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))["_class_name"]
        except (ValueError, KeyError, TypeError) as error:
            raise ModelError(f"{folder}/model_index.json: not a diffusers pipeline: {error}") from error
        pipeline_class = PIPELINES.get(name, DiffusionPipeline)
    elif folder.exists():
        raise ModelError(f"{folder}: not a diffusers pipeline folder: it has no model_index.json")
    elif model.count("/") != 1 or model.startswith((".", "/", "~")):
        raise ModelError(
            f"unknown model {model!r}; registered models: {', '.join(REGISTERED)}; or give a folder, or a hub id owner/name"
        )
    try:
        pipeline = pipeline_class.from_pretrained(str(folder) if folder.exists() else model, dtype=dtype)
    except (OSError, ValueError, AttributeError, KeyError, HFValidationError) as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(f"cannot load {model!r}: {first_line}") from error
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)
