"""Quantization of outputs to 8 bits with one scale per row, and cloning of stored outputs."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Quantized(NamedTuple):
    """A tensor in 8 bits: integers (..., width), scales (..., 1), and an empty tensor of the original dtype."""

    values: Tensor
    scale: Tensor
    like: Tensor


def quantize(output: Any) -> Any:
    """Quantizes an output to 8 bits; its structure stays. Errors are at most 1/254 of a row's largest value."""
    if isinstance(output, Tensor):
        scale = output.abs().amax(dim=-1, keepdim=True).float().clamp_min(1e-30) / 127
        return Quantized((output / scale).round().to(torch.int8), scale, output.new_empty(0))
    return type(output)(map(quantize, output)) if isinstance(output, tuple | list) else output


def dequantize(stored: Any) -> Any:
    """Restores an output that `quantize` returned, in its original dtype."""
    if isinstance(stored, Quantized):
        return (stored.values * stored.scale).to(stored.like.dtype)
    return type(stored)(map(dequantize, stored)) if isinstance(stored, tuple | list) else stored


def quantized_bytes(tensors: Sequence[Tensor]) -> int:
    """Bytes of tensors after quantization: one per number, four for the scale of each row."""
    return sum(tensor.numel() + 4 * (tensor.numel() // max(tensor.shape[-1], 1)) for tensor in tensors)


def clone(stored: Any) -> Any:
    """Clones a stored output. The outputs of a CUDA graph are overwritten when it is replayed."""
    if isinstance(stored, Tensor):
        return stored.clone()
    if isinstance(stored, Quantized):
        return Quantized(*map(clone, stored))
    return type(stored)(map(clone, stored)) if isinstance(stored, tuple | list) else stored
