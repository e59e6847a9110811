"""Attaching hooks to modules from outside, and detaching them in any order without a trace.

Knows modules and diffusers' hooks; knows nothing of what a hook does.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from types import MethodType
from typing import Any

from diffusers.hooks import HookRegistry, ModelHook
from torch import nn

from pabtune.libraries.diffusers_internals import (
    HOOKS_ATTRIBUTE,
    has_accelerate_hook,
    hook_names,
    invalidate_registries,
    registry_of,
    remove_hook,
    remove_registry,
)

DIRECT_HOOK = "pabtune_hook"
"""Attribute of a module that holds its direct hook."""


class DirectHook(ModelHook):
    """A hook that the module's forward calls directly if it is the only hook on the module.

    diffusers' registry inserts a separate object for every module, on which dynamo guards: with compiled blocks, every
    layer would be compiled again.
    """

    direct_forward: Callable[..., Any] | None = None
    """The forward of the module's class, which all layers share; None if the module has other hooks."""

    def compute(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        """Output of the module without the hook."""
        if self.direct_forward is not None:
            return self.direct_forward(module, *args, **kwargs)
        return self.fn_ref.original_forward(*args, **kwargs)


def call_directly(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """The forward of a module with a direct hook."""
    return module.pabtune_hook.new_forward(module, *args, **kwargs)  # type: ignore[operator, union-attr]


@dataclass(frozen=True, slots=True, kw_only=True)
class Untouched:
    """State of a module before pabtune attached its first hook."""

    had_registry: bool
    had_forward: bool


def attach(module: nn.Module, hook: ModelHook, name: str) -> Callable[[], None]:
    """Attaches a hook to a module.

    Args:
        module: the module.
        hook: the hook that its calls go through.
        name: name of the hook, unique on the module.

    Returns:
        A function that detaches the hook. After the last one is detached, the module is as before.
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
            return  # another hook is still attached
        before = registry.before_pabtune
        del registry.before_pabtune
        if not before.had_registry:
            remove_registry(module)
        if not before.had_forward and not has_accelerate_hook(module):
            vars(module).pop("forward", None)

    return detach


def copy_without_hooks(transformer: nn.Module, prefix: str, memo: dict[int, Any], *attributes: str) -> nn.Module:
    """Deep copy of a transformer without the hooks whose names begin with `prefix`.

    The transformer stays as it is meanwhile: another thread may be about to call it, and sets the cache context of its hooks.
    A module that also has foreign hooks keeps all of its hooks in the copy, as is usual for hooked diffusers models.

    Args:
        transformer: the transformer.
        prefix: of the names of hooks.
        memo: of `copy.deepcopy`.
        attributes: of the transformer that the copy does not get either.
    """
    marks, nothing = dict[str, list[str]](), object()
    for path, module in transformer.named_modules():
        registry, names = registry_of(module), hook_names(module)
        before = getattr(registry, "before_pabtune", None)
        if before is None or before.had_forward or not all(name.startswith(prefix) for name in names):
            continue
        marks[path] = [name for name in ("forward", HOOKS_ATTRIBUTE, DIRECT_HOOK) if name in vars(module)]
        memo |= {id(vars(module)[name]): nothing for name in marks[path]}
    kept = {key: value for key, value in transformer.__getstate__().items() if key not in attributes}  # type: ignore[union-attr]
    copied = type(transformer).__new__(type(transformer))
    memo[id(transformer)] = copied
    copied.__setstate__(copy.deepcopy(kept, memo))
    for path, names in marks.items():
        for name in names:
            del vars(copied.get_submodule(path))[name]
    invalidate_registries(copied)
    return copied
