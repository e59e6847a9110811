"""Sizes of what sites return, known before a call: a twin of the transformer, without weights, makes the call first.

Knows tensors that have a shape, a type and a device but no data; knows nothing of policies.
"""

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._subclasses import fake_tensor
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

MARKS = (
    "_diffusers_hook", "_pabtune_hook", "_hf_hook", "_old_forward", "forward", "__deepcopy__", "_compiled_call_impl",
    "_forward_hooks", "_forward_pre_hooks",
)  # fmt: skip
"""Attributes of a module in which hooks are."""

KNOWN_VALUES = 2**22
"""Arguments with at most so many numbers keep their values: networks look at those of masks to choose their way."""

FILLED = (torch.ops.aten.zeros, torch.ops.aten.ones, torch.ops.aten.full, torch.ops.aten.arange)
"""What makes tensors out of nothing, masks among them."""


def weigh_outputs(
    transformer: nn.Module,
    paths: Mapping[int, str],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    weigh: Callable[[Any], int],
) -> dict[int, int] | None:
    """What the outputs of sites weigh in a call that is not made; None if it cannot be told without making it.

    That is so where the path through the network hangs on values that it computes with its weights.

    Args:
        transformer: the network; its copy has nobody's hooks.
        paths: of the sites, by index; a site that is called several times counts several times.
        args: of the call.
        kwargs: of the call.
        weigh: bytes of one output.
    """
    weights = dict.fromkeys(paths, 0)

    def watch(index: int) -> Callable[[nn.Module, Any, Any], None]:
        def add(_module: nn.Module, _args: Any, output: Any) -> None:
            weights[index] += weigh(output)

        return add

    def prepare(twin: nn.Module) -> None:
        for index, path in paths.items():
            twin.get_submodule(path).register_forward_hook(watch(index))

    return None if _call_twin(transformer, args, kwargs, prepare) is None else weights


def foresee_output(transformer: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """What a call will return, with tensors that have no data; None if it cannot be told without making it.

    Args:
        transformer: the network.
        args: of the call.
        kwargs: of the call.
    """
    return _call_twin(transformer, args, kwargs)


def _call_twin(
    transformer: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    prepare: Callable[[nn.Module], None] = lambda _: None,
) -> Any:
    """What a copy without weights and hooks returns; None if it cannot be called."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    device = next((value.device for value in (*args, *kwargs.values()) if isinstance(value, Tensor)), None)
    try:
        with _bare(transformer):
            twin = _copy_without_weights(transformer, mode, device)
        prepare(twin)
        with patch.object(fake_tensor, "CONSTANT_NUMEL_LIMIT", KNOWN_VALUES):  # torch's own limit is one number
            fake_args, fake_kwargs = tree_map_only(Tensor, lambda value: _fake(mode, value), (args, dict(kwargs)))
            with mode, _FilledValues(), torch.no_grad():
                return twin(*fake_args, **fake_kwargs)
    except Exception:  # noqa: BLE001, a network may do anything with its tensors
        return None


class _FilledValues(TorchDispatchMode):
    """Lets small tensors that are filled with something known keep their values."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        if function.overloadpacket in FILLED and made.numel() <= KNOWN_VALUES:
            with unset_fake_temporarily():
                made.constant = function(*args, **(kwargs or {}))
        return made


def _fake(mode: FakeTensorMode, value: Tensor) -> Tensor:
    """A tensor without data; small ones keep a copy of their values beside."""
    made = mode.from_tensor(value)
    if value.numel() <= KNOWN_VALUES:
        made.constant = value.clone()
    return made


@contextmanager
def _bare(transformer: nn.Module) -> Iterator[None]:
    """Takes everybody's hooks off the modules while they are copied: they hold pipelines, and weights of their own."""
    aside = [
        (module, {name: vars(module).pop(name) for name in MARKS if name in vars(module)})
        for module in transformer.modules()
    ]
    for module, _ in aside:
        module._forward_hooks, module._forward_pre_hooks = OrderedDict(), OrderedDict()
    try:
        yield
    finally:
        for module, values in aside:
            vars(module).update(values)


def _copy_without_weights(transformer: nn.Module, mode: FakeTensorMode, device: torch.device | None) -> nn.Module:
    """A copy whose parameters and buffers have no data; small tensors that a module holds otherwise are copied."""
    memo: dict[int, Any] = {}
    with mode:
        for parameter in transformer.parameters():
            empty = torch.empty(parameter.shape, dtype=parameter.dtype, device=device)
            memo[id(parameter)] = nn.Parameter(empty, requires_grad=False)
        for buffer in transformer.buffers():
            memo[id(buffer)] = torch.empty(buffer.shape, dtype=buffer.dtype, device=device)
    return copy.deepcopy(transformer, memo)
