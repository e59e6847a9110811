"""Outputs that are kept for later steps, and what is made of them: tensors inside tuples, lists and diffusers' outputs.

Knows structures of outputs and arithmetic on them; knows nothing of hooks, plans or where outputs are stored.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pabtune.libraries.torch_internals import copy_on_write


class Kept(NamedTuple):
    """Outputs of a site that were computed in one step, in stored form, one for each call of the site in a forward."""

    step: int
    outputs: tuple[Any, ...]


def map_tensors(function: Callable[..., Tensor], *outputs: Any) -> Any:
    """An output of the same structure, with `function` applied to the tensors that stand at the same place in all."""
    first = outputs[0]
    if isinstance(first, Tensor):
        return function(*outputs)
    if isinstance(first, tuple | list):
        return type(first)(map_tensors(function, *parts) for parts in zip(*outputs, strict=True))
    return first


def weighted_sum(outputs: Sequence[Any], weights: Sequence[float]) -> Any:
    """The weighted sum of outputs of the same structure, added up in float32 at least, in the dtype of the outputs."""

    def add(*tensors: Tensor) -> Tensor:
        wide = torch.promote_types(tensors[0].dtype, torch.float32)
        total = tensors[-1].to(wide) * weights[-1]
        for tensor, weight in zip(tensors[:-1], weights[:-1], strict=True):
            total = total.add(tensor.to(wide), alpha=weight)
        return total.to(tensors[0].dtype)

    return map_tensors(add, *outputs)


def half_of(output: Any, half: int) -> Any:
    """The first (0) or second (1) half of an output, along the first dimension of its tensors."""
    return map_tensors(lambda tensor: tensor.chunk(2)[half], output)


def copied(output: Any) -> Any:
    """A copy of an output that no change of the output in place reaches, nor the other way round."""
    return map_tensors(copy_on_write, output)


def taken_apart(output: Any) -> tuple[Callable[[tuple[Any, ...]], Any], tuple[Any, ...]]:
    """The parts of a transformer's output, and a function that makes such an output of such parts."""
    if isinstance(output, dict):
        kind, keys = type(output), tuple(output)
        return (lambda parts: kind(**dict(zip(keys, parts, strict=True)))), tuple(output.values())
    if isinstance(output, tuple | list):
        return type(output), tuple(output)
    return (lambda parts: parts[0]), (output,)
