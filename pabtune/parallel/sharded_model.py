"""A model that is split over processes: what was attached to it, and how it is all taken off again.

Knows modules, hooks and communicators; knows no strategy of splitting.
"""

import inspect
from collections.abc import Callable
from typing import Any

from diffusers import DiffusionPipeline
from diffusers.hooks import ModelHook
from torch import nn

from pabtune.parallel.collectives import Communicator, Traffic
from pabtune.parallel.mesh import Mesh
from pabtune.records.layouts import SequenceParallel
from pabtune.runtime.attachment import attach
from pabtune.runtime.interception import PARALLEL_HOOK
from pabtune.runtime.pipeline_calls import CallObserver, observe

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
        self._undo.append(attach(module, hook, name))

    def observe(self, pipeline: DiffusionPipeline, observer: CallObserver) -> None:
        """Tells an observer of a pipeline's calls until `remove`."""
        self._undo.append(observe(pipeline, observer))

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
