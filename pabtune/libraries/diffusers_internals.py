"""What pabtune uses of diffusers and accelerate that they call private. No other file does."""

import threading
from collections.abc import Callable, Mapping
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.hooks import HookRegistry, ModelHook
from diffusers.hooks.hooks import BaseState, CacheContext, StateManager
from diffusers.models._modeling_parallel import ContextParallelInput, ContextParallelOutput
from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry
from torch import nn

__all__ = ["AttentionBackendName", "ContextParallelInput", "ContextParallelOutput"]

Forward = Callable[..., Any]

HOOKS_ATTRIBUTE = "_diffusers_hook"


class CacheContextReader(StateManager):
    """Receives the cache context that a pipeline sets on a transformer; every thread sees the one that it set itself."""

    def __init__(self) -> None:
        super().__init__(BaseState)
        self._of_thread = threading.local()

    def set_context(self, context: CacheContext | None) -> None:
        """Called by diffusers when a cache context begins or ends."""
        self._of_thread.context = context

    def current(self) -> CacheContext | None:
        """The context of this thread's call; None outside of any."""
        return getattr(self._of_thread, "context", None)


class StatefulHook(ModelHook):
    """A hook whose state managers diffusers tells of cache contexts, and which it asks to reset its state."""

    _is_stateful = True


def execution_device(pipeline: DiffusionPipeline) -> torch.device:
    """The device on which a pipeline computes, also where its weights are offloaded."""
    return pipeline._execution_device


def attention_backend() -> AttentionBackendName:
    """The kernel that diffusers' attention dispatcher calls."""
    return _AttentionBackendRegistry.get_active_backend()[0]


def registry_of(module: nn.Module) -> HookRegistry | None:
    """The hooks of a module; None where it never had one."""
    return getattr(module, HOOKS_ATTRIBUTE, None)


def find_hook(module: nn.Module, name: str) -> ModelHook | None:
    """The hook of that name on a module; None without one."""
    registry = registry_of(module)
    return registry.get_hook(name) if registry is not None else None


def hook_names(module: nn.Module) -> tuple[str, ...]:
    """Names of the hooks on a module, the innermost first."""
    registry = registry_of(module)
    return tuple(registry.hooks) if registry is not None else ()


def remove_registry(module: nn.Module) -> None:
    """Takes an empty registry off a module."""
    vars(module).pop(HOOKS_ATTRIBUTE, None)


def context_parallel_plan(transformer: nn.Module) -> Mapping[str, object]:
    """Where diffusers itself would cut a transformer's inputs and gather its output for context parallelism."""
    return transformer._cp_plan  # type: ignore[return-value]


def has_accelerate_hook(module: nn.Module) -> bool:
    """Whether accelerate moves the module's weights."""
    return hasattr(module, "_hf_hook")


def remove_hook(module: nn.Module, hook_name: str, forward: Forward) -> None:
    """Removes a hook, also from under accelerate's offloading, which keeps the forward that it met.

    Args:
        module: the module with the hook.
        hook_name: its name.
        forward: the module's forward when the hook had been put there.
    """
    outer = vars(module).get("forward")
    is_under_offloading = outer is not forward and getattr(module, "_old_forward", None) is forward
    registry = registry_of(module)
    assert registry is not None
    registry.remove_hook(hook_name, recurse=False)
    if is_under_offloading:
        module._old_forward = module.forward
        module.forward = outer  # type: ignore[assignment]


def invalidate_registries(transformer: nn.Module) -> None:
    """Tells diffusers that hooks have come or gone below a transformer; it keeps a list of their registries."""
    registry = registry_of(transformer)
    if registry is not None:
        registry.invalidate_child_registries_cache()
