"""Keeping outputs in 8 bits with a scale per token, and copies of one's own."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pabtune.records.policies import Store


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


def kept_bytes(tensors: Sequence[Tensor], store: Store) -> int:
    """Bytes that are held when these tensors, parts of one output, are kept."""
    if store == "int8":
        return sum(tensor.numel() + 4 * (tensor.numel() // max(tensor.shape[-1], 1)) for tensor in tensors)
    if store == "host":
        return sum(tensor.nbytes for tensor in tensors)
    # Parts of one output are often views of one storage, which may be larger than they are.
    storages = [tensor.untyped_storage() for tensor in tensors]
    return sum({storage._cdata: storage.nbytes() for storage in storages}.values())
