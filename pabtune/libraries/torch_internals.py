"""Private names of torch that pabtune uses. No other file uses them."""

import threading
from collections.abc import Callable, Iterable
from functools import partial
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
    return _LIMITS.raise_for(patterns)


class _RecompileLimits:
    """Dynamo's recompilation limits, which all runs of the process share: as high as the most patterns among them need."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._needs: dict[object, int] = {}
        self._before = (0, 0)
        self._raised = (0, 0)

    def raise_for(self, patterns: int) -> Callable[[], None]:
        """Raises the limits for one more run (see `raise_recompile_limits`)."""
        run = object()
        with self._lock:
            config = torch._dynamo.config
            limits = (config.recompile_limit, config.accumulated_recompile_limit)
            if not self._needs or limits != self._raised:
                self._before = limits  # other code's
            self._needs[run] = RECOMPILATIONS_PER_PATTERN * patterns
            self._set()
        return partial(self._release, run)

    def _release(self, run: object) -> None:
        with self._lock:
            config = torch._dynamo.config
            self._needs.pop(run, None)
            if (config.recompile_limit, config.accumulated_recompile_limit) == self._raised:
                self._set()

    def _set(self) -> None:
        limit = max(self._before[0], *self._needs.values(), 0)
        accumulated = max(self._before[1], 4 * limit) if self._needs else self._before[1]
        self._raised = (limit, accumulated)
        config = torch._dynamo.config
        config.recompile_limit, config.accumulated_recompile_limit = self._raised


_LIMITS = _RecompileLimits()


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
