"""Private names of torch that pabtune uses. No other file uses them."""

from collections.abc import Callable, Iterable
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


def storage_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of the memory behind some tensors; memory that several tensors share counts once.

    Addresses are read in the one way that does not part copies on write.
    """
    sizes = {}
    for tensor in tensors:
        storage = tensor.untyped_storage()
        sizes[torch._C._data_address(tensor) or storage._cdata] = storage.nbytes()
    return sum(sizes.values())


def copy_on_write(tensor: Tensor) -> Tensor:
    """A copy that shares the memory of the tensor until one of the two is written to.

    A full copy in a compiled graph, and of memory that torch did not allocate for itself (NumPy's, other processes').
    """
    if torch.compiler.is_compiling():
        return tensor.clone()
    try:
        return torch._lazy_clone(tensor)
    except RuntimeError:
        return tensor.clone()
