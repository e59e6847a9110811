"""What pabtune uses of torch that torch calls private. No other file does, so that an upgrade is read against this one."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch._dynamo.exc import Unsupported as UnsupportedByCompiler
from torch.utils._pytree import tree_leaves, tree_map_only

__all__ = ["CPU_FLASH_ATTENTION", "UnsupportedByCompiler", "tree_leaves", "tree_map_only"]

CPU_FLASH_ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
"""Fused attention on the CPU, which torch's FLOP counter does not count."""

RECOMPILATIONS_PER_PATTERN = 8
"""Dynamo's own limit of compilations of one function."""


def unwrap_compiled(module: Any) -> Any:
    """The module inside of what `torch.compile(module)` returned; any other object as it is."""
    return getattr(module, "_orig_mod", module)


def compiled_call(module: nn.Module) -> Callable[..., Any] | None:
    """What `module(...)` runs instead of the module's forward with its hooks; None where nothing is set."""
    return module._compiled_call_impl


def set_compiled_call(module: nn.Module, call: Callable[..., Any] | None) -> None:
    """Makes `module(...)` run `call`; None lets it run the module's forward with its hooks again."""
    if call is None:
        vars(module).pop("_compiled_call_impl", None)
    else:
        module._compiled_call_impl = call


def call_module(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """The module's forward with its hooks, past what `set_compiled_call` has set."""
    return module._call_impl(*args, **kwargs)


def raise_recompile_limits(patterns: int) -> Callable[[], None]:
    """Lets dynamo compile each pattern as often as it may compile a function; over its limit it would run eagerly.

    Args:
        patterns: distinct combinations of what the sites of a model do in a step.

    Returns:
        A function that restores the limits, unless somebody else has changed them since.
    """
    config = torch._dynamo.config
    before = (config.recompile_limit, config.accumulated_recompile_limit)
    limit = max(config.recompile_limit, RECOMPILATIONS_PER_PATTERN * patterns)
    raised = (limit, max(config.accumulated_recompile_limit, 4 * limit))
    config.recompile_limit, config.accumulated_recompile_limit = raised

    def restore() -> None:
        if (config.recompile_limit, config.accumulated_recompile_limit) == raised:
            config.recompile_limit, config.accumulated_recompile_limit = before

    return restore


def storage_bytes(tensors: list[Tensor]) -> int:
    """Bytes of the storages behind some tensors; a storage that several of them are views of counts once."""
    storages = [tensor.untyped_storage() for tensor in tensors]
    return sum({storage._cdata: storage.nbytes() for storage in storages}.values())
