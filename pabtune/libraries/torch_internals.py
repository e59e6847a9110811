"""Private names of torch that pabtune uses. No other file uses them."""

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
"""Compilations of one function per pattern: dynamo's own default limit."""


def unwrap_compiled(module: Any) -> Any:
    """The module inside the wrapper that `torch.compile(module)` returns; any other object unchanged."""
    return getattr(module, "_orig_mod", module)


def compiled_call(module: nn.Module) -> Callable[..., Any] | None:
    """The callable that `module(...)` runs instead of the module's forward with hooks; None if there is none."""
    return module._compiled_call_impl


def set_compiled_call(module: nn.Module, call: Callable[..., Any] | None) -> None:
    """Makes `module(...)` run `call`; None restores the module's forward with its hooks."""
    if call is None:
        vars(module).pop("_compiled_call_impl", None)
    else:
        module._compiled_call_impl = call


def call_module(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """Runs the module's forward with its hooks, bypassing what `set_compiled_call` has set."""
    return module._call_impl(*args, **kwargs)


def raise_recompile_limits(patterns: int) -> Callable[[], None]:
    """Raises dynamo's recompilation limits so that every pattern can be compiled; beyond the limit it would run eagerly.

    Args:
        patterns: number of distinct combinations of site modes in a step.

    Returns:
        A function that restores the limits, unless other code has changed them since.
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
    """Bytes of the storages behind some tensors; a storage that several tensors share counts once."""
    storages = [tensor.untyped_storage() for tensor in tensors]
    return sum({storage._cdata: storage.nbytes() for storage in storages}.values())


def version_of(tensor: Tensor) -> int | None:
    """How often a tensor was changed in place; None for tensors of inference mode, which do not count it."""
    return None if tensor.is_inference() else tensor._version
