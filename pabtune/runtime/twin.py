"""Sizes of what sites return, known before a call: a twin of the transformer, without weights, makes the call first.

Knows tensors that have a shape, a type and a device but no data; knows nothing of policies.
"""

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_map_only

MARKS = (
    "_diffusers_hook", "_pabtune_hook", "_hf_hook", "_old_forward", "forward", "__deepcopy__", "_compiled_call_impl",
    "_forward_hooks", "_forward_pre_hooks",
)  # fmt: skip
"""Attributes of a module in which hooks are."""


def weigh_outputs(
    transformer: nn.Module,
    paths: Mapping[int, str],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    weigh: Callable[[Any], int],
) -> dict[int, int] | None:
    """What the outputs of sites weigh in a call that is not made; None if it cannot be told without making it.

    That is so where the path through the network hangs on a tensor's values.

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

    mode = FakeTensorMode(allow_non_fake_inputs=True)
    device = next((value.device for value in (*args, *kwargs.values()) if isinstance(value, Tensor)), None)
    try:
        with _bare(transformer):
            twin = _copy_without_weights(transformer, mode, device)
        for index, path in paths.items():
            twin.get_submodule(path).register_forward_hook(watch(index))
        fake_args, fake_kwargs = tree_map_only(Tensor, mode.from_tensor, (args, dict(kwargs)))
        with mode, torch.no_grad():
            twin(*fake_args, **fake_kwargs)
    except Exception:  # noqa: BLE001, a network may do anything with its tensors
        return None
    return weights


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
