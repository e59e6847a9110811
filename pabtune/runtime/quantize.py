"""Outputs in 8 bits with a scale per token, and copies of outputs."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Quantized(NamedTuple):
    """A tensor in 8 bits: (..., width) integers, a scale for each row of them, and an empty tensor of the original dtype."""

    values: Tensor
    scale: Tensor
    like: Tensor


def quantize(output: Any) -> Any:
    """The tensors of an output in 8 bits, tuples as tuples. The largest error is 1/254 of a row's largest value."""
    if isinstance(output, Tensor):
        scale = output.abs().amax(dim=-1, keepdim=True).float().clamp_min(1e-30) / 127
        return Quantized((output / scale).round().to(torch.int8), scale, output.new_empty(0))
    return tuple(quantize(part) for part in output) if isinstance(output, tuple | list) else output


def dequantize(kept: Any) -> Any:
    """What `quantize` was given, as near as 8 bits are."""
    if isinstance(kept, Quantized):
        return (kept.values * kept.scale).to(kept.like.dtype)
    return tuple(dequantize(part) for part in kept) if isinstance(kept, tuple) else kept


def quantized_bytes(tensors: Sequence[Tensor]) -> int:
    """Bytes of tensors in 8 bits: one for each number, four for the scale of each row."""
    return sum(tensor.numel() + 4 * (tensor.numel() // max(tensor.shape[-1], 1)) for tensor in tensors)


def clone(kept: Any) -> Any:
    """Copies of kept outputs. What a CUDA graph returned is overwritten when the graph is replayed."""
    if isinstance(kept, Tensor):
        return kept.clone()
    if isinstance(kept, Quantized):
        return Quantized(*map(clone, kept))
    return tuple(map(clone, kept)) if isinstance(kept, tuple | list) else kept
