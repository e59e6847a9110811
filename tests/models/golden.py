"""The reference's own numbers, for tests of models."""

import json
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

GOLDEN = Path(__file__).parent.parent / "golden"


def load_golden(name: str) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any]]:
    """Inputs and outputs, weights under their published names, and the configuration."""
    with safe_open(GOLDEN / f"{name}.safetensors", "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        config = json.loads(file.metadata()["config"])
    weights = {key.removeprefix("model."): tensors.pop(key) for key in list(tensors) if key.startswith("model.")}
    return tensors, weights, config


def relative_error(output: Tensor, expected: Tensor) -> float:
    return float((output - expected).norm() / expected.norm())
