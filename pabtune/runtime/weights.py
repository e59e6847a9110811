"""A digest of the weights that a pipeline computes with, adapters included: what caches of its videos must be keyed by.

Hashing every byte of a model of 14 billion parameters takes a minute; here each tensor is sampled at fixed places, spread over
all of it. Training steps, LoRA, merging and quantization change every sampled tensor almost everywhere.
"""

import hashlib
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

SAMPLES = 4096
"""Numbers that are read of each tensor."""

ADAPTER_STATE = ("scaling", "active_adapters", "disable_adapters")
"""Attributes of peft's layers that change what they compute, beside their weights."""


def weights_digest(model: DiffusionPipeline | nn.Module) -> str:
    """`sha256:` and a checksum of the weights of all parts of a pipeline, or of a module.

    Args:
        model: the pipeline or module. Weights that are not loaded (meta tensors of sequential offloading) count by shape.
    """
    parts = model.components if isinstance(model, DiffusionPipeline) else {"transformer": model}
    total = hashlib.sha256()
    for name, part in sorted(parts.items()):
        if not isinstance(part, nn.Module):
            continue
        for key, tensor in (*part.named_parameters(), *part.named_buffers()):
            total.update(f"{name}.{key} {tuple(tensor.shape)} {tensor.dtype}".encode())
            if tensor.device.type != "meta":
                total.update(_sample(tensor.detach()))
        for key, module in part.named_modules():
            state = {attribute: getattr(module, attribute, None) for attribute in ADAPTER_STATE}
            if any(value is not None for value in state.values()):
                total.update(f"{name}.{key} {_plain(state)}".encode())
    return "sha256:" + total.hexdigest()


def _sample(tensor: Tensor) -> bytes:
    flat = tensor.reshape(-1)
    last = max(flat.numel() - 1, 0)
    places = torch.linspace(0, last, min(SAMPLES, flat.numel())).long().clamp_(max=last)  # float32 rounds above 2**24
    return flat[places.to(flat.device)].double().cpu().numpy().tobytes() if flat.numel() else b""


def _plain(value: Any) -> Any:
    """A value without anything that differs between two runs of a program."""
    if isinstance(value, dict):
        return sorted((str(key), _plain(each)) for key, each in value.items())
    if isinstance(value, list | tuple | set):
        return sorted(map(str, value))
    return str(value)
