"""Sizes of what sites return, known before a call: a twin of the transformer, without weights, makes the call first.

Knows tensors that have a shape, a type and a device but no data; knows nothing of policies.
"""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_map_only


def weigh_outputs(
    transformer: nn.Module,
    paths: Mapping[int, str],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    weigh: Callable[[Any], int],
) -> dict[int, int] | None:
    """What the outputs of sites weigh in a call that is not made; None if it cannot be told without making it.

    That is so where the path through the network hangs on a tensor's values, or where weights are moved during a call.

    Args:
        transformer: the network; its copy leaves out what pabtune attached.
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

    mode = FakeTensorMode(allow_non_fake_inputs=True)
    try:
        twin = _copy_without_weights(transformer, mode)
        for index, path in paths.items():
            twin.get_submodule(path).register_forward_hook(watch(index))
        fake_args, fake_kwargs = tree_map_only(Tensor, mode.from_tensor, (args, dict(kwargs)))
        with mode, torch.no_grad():
            twin(*fake_args, **fake_kwargs)
    except Exception:  # noqa: BLE001, a network may do anything with its tensors
        return None
    return weights


def _copy_without_weights(transformer: nn.Module, mode: FakeTensorMode) -> nn.Module:
    """A copy whose parameters and buffers have no data; small tensors that a module holds otherwise are copied."""
    memo: dict[int, Any] = {}
    for parameter in transformer.parameters():
        memo[id(parameter)] = nn.Parameter(mode.from_tensor(parameter.detach()), requires_grad=False)
    for buffer in transformer.buffers():
        memo[id(buffer)] = mode.from_tensor(buffer)
    twin = copy.deepcopy(transformer, memo)
    for module in twin.modules():  # others' hooks are not told of a call that is none
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()
    return twin
