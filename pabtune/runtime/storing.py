"""Keeping outputs in 8 bits with a scale per token, and copies of one's own."""

from typing import Any, NamedTuple

import torch
from torch import Tensor


class Packed(NamedTuple):
    """A tensor in 8 bits: (..., width) whole numbers, a scale for each row of them, and nothing of the type it had."""

    values: Tensor
    scale: Tensor
    like: Tensor


def own(kept: Any) -> Any:
    """Copies of what is kept. What a CUDA graph returned is overwritten when it is replayed."""
    if isinstance(kept, Tensor):
        return kept.clone()
    if isinstance(kept, Packed):
        return Packed(*map(own, kept))
    return tuple(map(own, kept)) if isinstance(kept, tuple | list) else kept


def pack(output: Any) -> Any:
    """The tensors of an output in 8 bits, tuples as tuples. The largest error is 1/254 of a row's largest value."""
    if isinstance(output, Tensor):
        scale = output.abs().amax(dim=-1, keepdim=True).float().clamp_min(1e-30) / 127
        return Packed((output / scale).round().to(torch.int8), scale, output.new_empty(0))
    return tuple(pack(part) for part in output) if isinstance(output, tuple | list) else output


def unpack(kept: Any) -> Any:
    """What `pack` was given, as near as 8 bits are."""
    if isinstance(kept, Packed):
        return (kept.values * kept.scale).to(kept.like.dtype)
    return tuple(unpack(part) for part in kept) if isinstance(kept, tuple) else kept


def packed_bytes(tensor: Tensor) -> int:
    """Bytes of a tensor in 8 bits: one for each number, and a scale for each row."""
    return tensor.numel() + 4 * (tensor.numel() // max(tensor.shape[-1], 1))
