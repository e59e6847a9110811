"""Attaching hooks to modules from outside, and taking them off without a trace, in any order.

Knows modules and diffusers' hooks; knows nothing of what a hook does.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import MethodType
from typing import Any

from diffusers.hooks import HookRegistry, ModelHook
from torch import nn

from pabtune.libraries.diffusers_internals import (
    HOOKS_ATTRIBUTE,
    has_accelerate_hook,
    hook_names,
    registry_of,
    remove_hook,
    remove_registry,
)

DIRECT_HOOK = "pabtune_hook"
"""Attribute of a module whose forward is its direct hook."""


class DirectHook(ModelHook):
    """A hook that a module calls without anything between, if no other hook is on the module.

    What diffusers' registry puts between is another object for every module, which dynamo tells apart: every layer of a
    model whose blocks are compiled would be compiled anew.
    """

    direct_forward: Callable[..., Any] | None = None
    """The forward of the module's class, which all layers share; None if other hooks are on the module."""

    def compute(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        """What the module returns without the hook."""
        if self.direct_forward is not None:
            return self.direct_forward(module, *args, **kwargs)
        return self.fn_ref.original_forward(*args, **kwargs)


def call_directly(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """The forward of a module with a direct hook."""
    return module.pabtune_hook.new_forward(module, *args, **kwargs)  # type: ignore[operator, union-attr]


@dataclass(frozen=True, slots=True, kw_only=True)
class Untouched:
    """How a module was before the first hook of ours."""

    had_registry: bool
    had_forward: bool


def attach(module: nn.Module, hook: ModelHook, name: str) -> Callable[[], None]:
    """Puts a hook on a module.

    Args:
        module: any module.
        hook: what its calls go through.
        name: of the hook, unique on the module.

    Returns:
        A function that takes the hook off. When the last hook is gone, the module is as it was.
    """
    had_registry, had_forward = registry_of(module) is not None, "forward" in vars(module)
    registry = HookRegistry.check_if_exists_or_initialize(module)
    if not hasattr(registry, "before_pabtune"):
        registry.before_pabtune = Untouched(had_registry=had_registry, had_forward=had_forward)
    registry.register_hook(hook, name)
    if isinstance(hook, DirectHook) and not had_forward and len(registry.hooks) == 1:
        hook.direct_forward = type(module).forward
        vars(module)[DIRECT_HOOK] = hook
        module.forward = MethodType(call_directly, module)  # type: ignore[assignment]
    forward = module.forward

    def detach() -> None:
        remove_hook(module, name, forward)
        if vars(module).get(DIRECT_HOOK) is hook:
            del vars(module)[DIRECT_HOOK]
        if registry.hooks:
            return  # somebody else's hook is still there
        before = registry.before_pabtune
        del registry.before_pabtune
        if not before.had_registry:
            remove_registry(module)
        if not before.had_forward and not has_accelerate_hook(module):
            vars(module).pop("forward", None)

    return detach


@contextmanager
def set_aside(transformer: nn.Module, prefix: str) -> Iterator[None]:
    """Takes hooks whose names begin with `prefix` off a transformer's modules, for as long as these are copied.

    Where others have hooks too, a copy keeps all of them, as any copy of a hooked model of diffusers does.
    """
    aside = []
    for module in transformer.modules():
        registry, names = registry_of(module), hook_names(module)
        if not names or not all(name.startswith(prefix) for name in names):
            continue
        before = getattr(registry, "before_pabtune", None)
        if before is not None and not before.had_forward:
            marks = [name for name in ("forward", HOOKS_ATTRIBUTE, DIRECT_HOOK) if name in vars(module)]
            aside.append((module, {name: vars(module).pop(name) for name in marks}))
    try:
        yield
    finally:
        for module, values in aside:
            vars(module).update(values)
