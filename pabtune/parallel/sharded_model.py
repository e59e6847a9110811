"""A model that is split over processes, with everything that was attached to it and how to undo it.

Knows modules, hooks and communicators, but no strategy of splitting.
"""

import inspect
from collections.abc import Callable
from contextlib import ExitStack
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
"""Maps a module and the arguments of its call to the arguments that it gets instead."""

ChangeOutput = Callable[[Any], Any]
"""Maps the output of a module to the output that its caller gets instead."""


class ShardedModel:
    """A model that is split over the processes of a mesh; records what is attached to it, and undoes it.

    Args:
        mesh: the processes.
        exchange: method of sequence parallelism along the split axis.

    Attributes:
        traffic: messages and bytes that this process sent.
        sequence, branches, samples: communicators of the processes that share each of them.
        everyone: communicator of all processes.
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
        """Restores the model to its state before the split, all of it even if a part of that fails."""
        with ExitStack() as stack:
            while self._undo:
                stack.callback(self._undo.pop(0))  # the last one is undone first

    def hook(self, module: nn.Module, hook: ModelHook, name: str = PARALLEL_HOOK) -> None:
        """Attaches a hook to a module until `remove`."""
        self._undo.append(attach(module, hook, name))

    def observe(self, pipeline: DiffusionPipeline, observer: CallObserver) -> None:
        """Notifies an observer of a pipeline's calls until `remove`."""
        self._undo.append(observe(pipeline, observer))

    def before(self, module: nn.Module, change: ChangeArguments) -> None:
        """Changes the arguments of a module's calls until `remove`, including calls that a policy broadcasts."""
        self._undo.append(module.register_forward_pre_hook(change, with_kwargs=True).remove)

    def after(self, module: nn.Module, change: ChangeOutput) -> None:
        """Changes the output of a module's calls until `remove`, including calls that a policy broadcasts."""
        self._undo.append(module.register_forward_hook(lambda _module, _args, output: change(output)).remove)

    def patch(self, owner: Any, name: str, value: Any) -> None:
        """Replaces an attribute of an object, on the instance, until `remove`."""
        before = {name: vars(owner)[name]} if name in vars(owner) else {}
        setattr(owner, name, value)

        def undo() -> None:
            vars(owner).pop(name, None)
            vars(owner).update(before)

        self._undo.append(undo)


def bind_arguments(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> inspect.BoundArguments:
    """The arguments of a module's call, to be read and replaced by name."""
    return inspect.signature(module.__class__.forward.__get__(module)).bind(*args, **kwargs)
