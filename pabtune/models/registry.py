"""Loading of pipelines and of weightless transformers by model name, folder or hub id."""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from diffusers import ConfigMixin, DiffusionPipeline, LatteTransformer3DModel
from torch import nn

from pabtune.models.open_sora import OpenSoraPipeline
from pabtune.models.open_sora_plan import LatteT2VTransformer3DModel, OpenSoraPlanPipeline
from pabtune.models.shapes.pipeline import ShapesPipeline
from pabtune.models.stdit3 import STDiT3Transformer3DModel
from pabtune.records.errors import ModelError, as_error

LATTE_CONFIG: Mapping[str, Any] = {
    "num_attention_heads": 16, "attention_head_dim": 72, "in_channels": 4, "out_channels": 8, "num_layers": 28,
    "cross_attention_dim": 1152, "attention_bias": True, "sample_size": 64, "patch_size": 2,
    "activation_fn": "gelu-approximate", "num_embeds_ada_norm": 1000, "norm_type": "ada_norm_single",
    "norm_elementwise_affine": False, "norm_eps": 1e-6, "caption_channels": 4096, "video_length": 16,
}  # fmt: skip
"""Transformer of `maxin-cn/Latte-1`."""

SHAPES_FOLDER = Path(str(files("pabtune.models.shapes"))) / "weights"

PIPELINES: Mapping[str, type[DiffusionPipeline]] = {
    "ShapesPipeline": ShapesPipeline,
    "OpenSoraPipeline": OpenSoraPipeline,
    "OpenSoraPlanPipeline": OpenSoraPlanPipeline,
}
"""Pipeline classes that pabtune defines, by the class name in `model_index.json`."""

REGISTERED: Mapping[str, str] = {"shapes": str(SHAPES_FOLDER), "latte": "maxin-cn/Latte-1"}
"""Folder or hub id of each registered model."""

OPEN_SORA, OPEN_SORA_PLAN = "open-sora-1.2", "open-sora-plan-1.1"
"""Names of the models that were published in parts; their pipelines are assembled from these."""

PUBLISHED_TRANSFORMERS: Mapping[str, Callable[[], nn.Module]] = {
    OPEN_SORA: STDiT3Transformer3DModel,
    OPEN_SORA_PLAN: LatteT2VTransformer3DModel,
    "latte": lambda: LatteTransformer3DModel(**LATTE_CONFIG),
}
"""Builder of the transformer of each published model; needs no network access."""

MODEL_LINES: Mapping[str, str] = {
    "shapes": "embedded STDiT3 (1.0 M parameters): 8 frames of 24x24 pixels of one moving shape, trained in this project",
    "latte": "Latte-1, 16 frames of 512x512, from the hub",
    OPEN_SORA: "Open-Sora 1.2, STDiT3-XL/2, 51 frames of 480x854 by default, from the hub in its published parts",
    OPEN_SORA_PLAN: "Open-Sora-Plan v1.1, LatteT2V, 65 frames of 512x512, from the hub in its published parts",
}


def load_pipeline(model: str, dtype: torch.dtype = torch.float32, device: str = "cpu") -> DiffusionPipeline:
    """Loads a registered model, a local folder, or a hub id that diffusers can load.

    Args:
        model: name, folder or hub id.
        dtype: precision of the weights.
        device: device to move the pipeline to.

    Raises:
        ModelError: there is no such model, or it cannot be loaded.
    """
    if model in (OPEN_SORA, OPEN_SORA_PLAN):
        return _assemble(model, dtype, device)
    location = _locate(model)
    pipeline_class = PIPELINES.get(_index(model)["_class_name"], DiffusionPipeline)
    with as_error(ModelError, f"cannot load {model!r}"):
        pipeline = pipeline_class.from_pretrained(location, dtype=dtype)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline.to(device)


def _assemble(model: str, dtype: torch.dtype, device: str) -> DiffusionPipeline:
    from pabtune.models.open_sora.published import load_open_sora
    from pabtune.models.open_sora_plan.published import load_open_sora_plan

    with as_error(ModelError, f"cannot load {model!r}"):
        pipeline = {OPEN_SORA: load_open_sora, OPEN_SORA_PLAN: load_open_sora_plan}[model](dtype=dtype)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline.to(device)


def build_on_meta(model: str) -> nn.Module:
    """Builds the first transformer of a model at full size on the meta device, where it takes no memory.

    Args:
        model: name, folder or hub id; names of published models need no network.

    Raises:
        ModelError: there is no such model, or diffusers does not know its class.
    """
    return next(iter(transformers_on_meta(model).values())).eval()


def transformers_on_meta(model: str) -> dict[str, nn.Module]:
    """Builds all transformers of a model on the meta device, from their configurations alone.

    Args:
        model: name, folder or hub id.

    Raises:
        ModelError: there is no such model, it has no transformer, or diffusers does not know its class.
    """
    if model in PUBLISHED_TRANSFORMERS:
        with torch.device("meta"):
            return {"transformer": PUBLISHED_TRANSFORMERS[model]()}
    location, transformers = _locate(model), {}
    for name, entry in _index(model).items():
        if not name.startswith("transformer") or not isinstance(entry, list) or entry[1:] == [None]:
            continue
        with as_error(ModelError, f"cannot load {model!r}"), torch.device("meta"):
            transformer_class = _transformer_class(location, name, entry)
            config = transformer_class.load_config(location, subfolder=name)
            transformers[name] = transformer_class.from_config(config)
    if not transformers:
        raise ModelError(f"{model!r} has no component named transformer")
    return transformers


def _transformer_class(location: str, name: str, entry: Sequence[Any]) -> Any:
    """The class that a pipeline's index names for a component.

    The index comes with the model, and importing a module runs it: only what is imported already is looked at, as diffusers
    does when it loads weights.

    Raises:
        ModelError: the entry names something else than a network's class of diffusers, of pabtune, or of an imported module.
    """
    library, class_name = entry if len(entry) == 2 and all(isinstance(each, str) for each in entry) else ("", "")
    found = getattr(sys.modules.get(library), class_name, None) if class_name else None
    if not (isinstance(found, type) and issubclass(found, nn.Module) and issubclass(found, ConfigMixin)):
        raise ModelError(
            f"{location}/model_index.json: {name} must name a network of diffusers, but is {entry!r}; a class of your own "
            "must be imported before"
        )
    return found


def _locate(model: str) -> str:
    """Folder or hub id from which diffusers loads a model."""
    model = REGISTERED.get(model, model)
    folder = Path(model)
    if os.path.isfile(folder / "model_index.json"):  # says no to names that no file can have
        return str(folder)
    if os.path.isfile(folder / "modular_model_index.json"):
        raise ModelError(
            f"{folder}: a ModularPipeline of diffusers, which pabtune does not support; save the model as a DiffusionPipeline"
        )
    if os.path.exists(folder):
        raise ModelError(f"{folder}: not a diffusers pipeline folder: it has no model_index.json")
    if model.count("/") != 1 or model.startswith((".", "/", "~")):
        raise ModelError(
            f"unknown model {model!r}; known models: {', '.join(MODEL_LINES)}; or give a folder, or a hub id owner/name"
        )
    return model


def _index(model: str) -> dict[str, Any]:
    """Class and components of a pipeline, as listed in its `model_index.json`."""
    location = _locate(model)
    with as_error(ModelError, f"cannot load {model!r}"):
        index = DiffusionPipeline.load_config(location)
        class_name = index.get("_class_name")
    if not isinstance(class_name, str):
        raise ModelError(f"{location}/model_index.json: not a diffusers pipeline: it names no class")
    return index
