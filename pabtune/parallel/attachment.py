"""A model that is split over processes: what was attached to it, and how it is all taken off again.

Knows modules, hooks and communicators; knows no strategy of splitting.
"""

import inspect
from collections.abc import Callable
from typing import Any

from diffusers.hooks import HookRegistry, ModelHook
from torch import nn

from pabtune.parallel.collectives import Communicator, Traffic
from pabtune.parallel.mesh import Mesh
from pabtune.records.layouts import SequenceParallel
from pabtune.runtime.interception import PARALLEL_HOOK, remove_hook

ChangeArguments = Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], tuple[tuple[Any, ...], dict[str, Any]]]
"""From a module and the arguments of its call to those that it gets."""

ChangeOutput = Callable[[Any], Any]
"""From what a module's call returns to what its caller gets."""


class ShardedModel:
    """A model that is split over the processes of a mesh: takes note of what is attached, and undoes it.

    Args:
        mesh: the processes.
        exchange: how attention along the split axis exchanges.

    Attributes:
        traffic: what this process sent.
        sequence, branches, samples, everyone: communicators of the processes that share each, and of all.
    """

    def __init__(self, mesh: Mesh, exchange: SequenceParallel) -> None:
        self.mesh = mesh
        self.exchange = exchange
        self.traffic = Traffic()
        self.sequence = Communicator(mesh, "sequence", self.traffic)
        self.branches = Communicator(mesh, "branches", self.traffic)
        self.samples = Communicator(mesh, "samples", self.traffic)
        self.everyone = Communicator(mesh, "everything", self.traffic)
        self._undo: list[Callable[[], None]] = []

    def remove(self) -> None:
        """Leaves the model as it was."""
        while self._undo:
            self._undo.pop()()

    def hook(self, module: nn.Module, hook: ModelHook, name: str = PARALLEL_HOOK) -> None:
        """Puts a hook on a module until `remove`."""
        had_registry, had_forward = registry_of(module) is not None, "forward" in vars(module)
        HookRegistry.check_if_exists_or_initialize(module).register_hook(hook, name)
        forward = module.forward

        def undo() -> None:
            remove_hook(module, name, forward)
            if has_hooks(module):
                return
            if not had_registry:
                del module._diffusers_hook
            if not had_forward and not is_offloaded(module):
                vars(module).pop("forward", None)

        self._undo.append(undo)

    def before(self, module: nn.Module, change: ChangeArguments) -> None:
        """Changes the arguments of a module's calls until `remove`, also of those that a policy answers by itself."""
        self._undo.append(module.register_forward_pre_hook(change, with_kwargs=True).remove)

    def after(self, module: nn.Module, change: ChangeOutput) -> None:
        """Changes what a module's calls return until `remove`, also of those that a policy answers by itself."""
        self._undo.append(module.register_forward_hook(lambda _module, _args, output: change(output)).remove)

    def patch(self, owner: Any, name: str, value: Any) -> None:
        """Shadows an attribute of an object until `remove`."""
        before = {name: vars(owner)[name]} if name in vars(owner) else {}
        setattr(owner, name, value)

        def undo() -> None:
            vars(owner).pop(name, None)
            vars(owner).update(before)

        self._undo.append(undo)


def bind_arguments(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> inspect.BoundArguments:
    """The arguments of a module's call, which can be read and replaced by name."""
    return inspect.signature(module.__class__.forward.__get__(module)).bind(*args, **kwargs)


def registry_of(module: nn.Module) -> HookRegistry | None:
    """diffusers' registry of hooks on a module, if it has one."""
    return getattr(module, "_diffusers_hook", None)


def has_hooks(module: nn.Module) -> bool:
    """Whether a hook of diffusers' kind is on a module."""
    registry = registry_of(module)
    return registry is not None and bool(registry.hooks)


def is_offloaded(module: nn.Module) -> bool:
    """Whether accelerate moves the weights of a module for each call."""
    return hasattr(module, "_hf_hook")


def is_compiled(module: nn.Module) -> bool:
    """Whether `module.compile()` was called."""
    return module._compiled_call_impl is not None
