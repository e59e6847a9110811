"""Private names of diffusers and accelerate that pabtune uses. No other file uses them."""

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
"""Attribute of a module that holds its hook registry."""


class CacheContextReader(StateManager):
    """Receives the cache context that a pipeline sets on a transformer; each thread sees only its own."""

    def __init__(self) -> None:
        super().__init__(BaseState)
        self._thread_state = threading.local()

    def set_context(self, context: CacheContext | None) -> None:
        """Called by diffusers when a cache context begins or ends."""
        self._thread_state.context = context

    def current(self) -> CacheContext | None:
        """The cache context that this thread is in; None outside any."""
        return getattr(self._thread_state, "context", None)


class StatefulHook(ModelHook):
    """Base of hooks whose state managers receive cache contexts and whose state diffusers resets."""

    _is_stateful = True


def execution_device(pipeline: DiffusionPipeline) -> torch.device:
    """The device on which a pipeline computes, even if its weights are offloaded."""
    return pipeline._execution_device


def attention_backend() -> AttentionBackendName:
    """The kernel that diffusers' attention dispatcher calls now."""
    return _AttentionBackendRegistry.get_active_backend()[0]


def registry_of(module: nn.Module) -> HookRegistry | None:
    """The hook registry of a module; None if it has none."""
    return getattr(module, HOOKS_ATTRIBUTE, None)


def find_hook(module: nn.Module, name: str) -> ModelHook | None:
    """The hook with this name on a module; None if there is none."""
    registry = registry_of(module)
    return registry.get_hook(name) if registry is not None else None


def hook_names(module: nn.Module) -> tuple[str, ...]:
    """Names of the hooks on a module, innermost first."""
    registry = registry_of(module)
    return tuple(registry.hooks) if registry is not None else ()


def remove_registry(module: nn.Module) -> None:
    """Removes an empty hook registry from a module."""
    vars(module).pop(HOOKS_ATTRIBUTE, None)


def context_parallel_plan(transformer: nn.Module) -> Mapping[str, object]:
    """diffusers' own context-parallel plan of a transformer: where inputs are split and outputs gathered."""
    return transformer._cp_plan  # type: ignore[return-value]


def has_accelerate_hook(module: nn.Module) -> bool:
    """Whether accelerate moves the module's weights."""
    return hasattr(module, "_hf_hook")


def reaches_hooks(module: nn.Module) -> bool:
    """Whether calls of a module with hooks go through them.

    Whoever removes accelerate's offloading, as diffusers does while it loads a LoRA, gives the module the forward of before
    the offloading, and so takes off what was put around it since.
    """
    outer = vars(module).get("forward")
    if has_accelerate_hook(module) and getattr(outer, "__wrapped__", None) is module._old_forward:
        outer = module._old_forward
    return outer is not None and getattr(outer, "__func__", None) is not type(module).forward


def remove_hook(module: nn.Module, hook_name: str, forward: Forward) -> None:
    """Removes a hook, even if accelerate's offloading has wrapped the module's forward since, or was removed.

    Args:
        module: the module with the hook.
        hook_name: name of the hook.
        forward: the module's forward just after the hook was registered.
    """
    outer, is_reached = vars(module).get("forward"), reaches_hooks(module)
    is_under_offloading = outer is not forward and getattr(module, "_old_forward", None) is forward
    registry = registry_of(module)
    assert registry is not None
    _remove_from_chain(registry, hook_name)
    if not is_reached:
        vars(module).pop("forward", None)
        if outer is not None:
            module.forward = outer
    elif is_under_offloading:
        module._old_forward = module.forward
        module.forward = outer  # type: ignore[assignment]


def _remove_from_chain(registry: HookRegistry, hook_name: str) -> None:
    """Removes a hook from between others.

    diffusers gives the next hook's place in the chain to what the removed one called, and so drops a next hook that has a
    forward of its own.
    """
    index = registry._hook_order.index(hook_name)
    reference = registry._fn_refs[index]
    inner = reference.forward if reference.original_forward is None else reference.original_forward
    following = registry._fn_refs[index + 1] if index + 1 < len(registry._fn_refs) else None
    forward = None if following is None else following.forward
    registry.remove_hook(hook_name, recurse=False)
    if following is not None and following.original_forward is not None:
        following.forward, following.original_forward = forward, inner


def invalidate_registries(transformer: nn.Module) -> None:
    """Clears diffusers' cached list of hook registries below a transformer, after hooks were added or removed."""
    registry = registry_of(transformer)
    if registry is not None:
        registry.invalidate_child_registries_cache()
