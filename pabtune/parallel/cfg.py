"""CFG parallelism: each half of the processes computes one branch of classifier-free guidance.

Batched CFG: both branches are samples of one call, and each half computes its own. Sequential CFG: the pipeline calls the
transformer once for each branch, and each half computes one of the two calls, at the same time. For the other call it returns
a tensor without values, which is filled before the second call returns, and so before the pipeline reads it. Only in the first
call of each input shape does one half wait for the other, to learn the shape of the output.

Source: CFG parallelism as in xDiT (https://arxiv.org/abs/2411.01738).
"""

import sys
from dataclasses import dataclass
from inspect import BoundArguments
from typing import Any

import torch
from torch import Tensor, nn

from pabtune.catalog import ModelCard
from pabtune.libraries.diffusers_internals import CacheContextReader
from pabtune.libraries.torch_internals import UnsupportedByCompiler, tree_leaves, tree_map_only
from pabtune.models.guidance import calls_per_step
from pabtune.parallel.batch import gather_samples, take_samples
from pabtune.parallel.collectives import OUTPUT, Communicator
from pabtune.parallel.sharded_model import bind_arguments
from pabtune.records.errors import ParallelError
from pabtune.runtime.interception import ParallelHook
from pabtune.runtime.locator import Locator
from pabtune.runtime.pipeline_calls import PipelineCall, current_call


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """Shape and type of a tensor."""

    shape: tuple[int, ...]
    dtype: torch.dtype


class OutputShapes:
    """Output shapes of a transformer, learned from the half that computes the call.

    Only the first call of each input shape waits for that half. All processes make the same calls, so they agree on which
    shapes are known.

    Args:
        communicator: connects the two halves.
    """

    def __init__(self, communicator: Communicator) -> None:
        self._communicator = communicator
        self._specs: dict[Any, Any] = {}

    def learn(self, call: BoundArguments, output: Any, owner: int) -> Any:
        """The output with a `TensorSpec` in place of each tensor.

        Args:
            call: arguments of the call.
            output: output of the call; None in the half that does not compute it.
            owner: rank of the half that computes it.
        """
        key = tuple(
            (name, (value.shape, value.dtype) if isinstance(value, Tensor) else value)
            for name, value in call.arguments.items()
            if isinstance(value, Tensor | bool | int | None)
        )
        if key not in self._specs:
            specs = tree_map_only(Tensor, lambda x: TensorSpec(shape=tuple(x.shape), dtype=x.dtype), output)
            self._specs[key] = self._communicator.all_gather_object(specs)[owner]
        return self._specs[key]


class CfgHook(ParallelHook):
    """Outermost hook on a transformer: computes this process' guidance branch and returns both.

    It observes the pipeline's calls: each has a locator of its own, which tells the first call of a step from the second.

    Args:
        branches: communicator of the two halves.
        name: name of the transformer in the pipeline.
        card: card of the transformer's class; None if there is none.
    """

    def __init__(self, branches: Communicator, name: str, card: ModelCard | None) -> None:
        super().__init__()
        self.context = CacheContextReader()
        self._branches, self._name, self._card = branches, name, card
        self._shapes = OutputShapes(branches)
        self._locator = Locator(lambda: None)
        self._first: Any = None
        self.shares_branches = branches.size > 1

    @property
    def awaits_branch(self) -> bool:  # type: ignore[override]
        """Whether the first call of a step has returned, and the second has not (see `ParallelHook`)."""
        return self._first is not None

    def begin_call(self, call: PipelineCall) -> None:
        """Resets the state at the start of a pipeline call (see `CallObserver`); a stopped call leaves nothing behind."""
        self._locator = Locator(lambda: getattr(call.pipeline, "scheduler", None))
        self._first = None

    def end_call(self, call: PipelineCall) -> None:
        """Resets the state at the end of a pipeline call (see `CallObserver`).

        Raises:
            ParallelError: the last step made one call, whose output one half of the processes has not got; not where the
                call ends with another error.
        """
        is_unfilled, self._first = self._first is not None, None
        if is_unfilled and sys.exception() is None:
            raise ParallelError(
                f"the last step called {self._name} once; its guidance branches cannot be split: one half has no output"
            )

    def reset_state(self, module: nn.Module) -> nn.Module:
        """Does nothing; diffusers calls it at the end of a pipeline."""
        return module

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Computes this process' samples of a batched call, or the call itself if this half owns it.

        Raises:
            ParallelError: the pipeline does not make two independent calls per step.
        """
        call = bind_arguments(module, args, kwargs)
        if self._branches.size == 1:
            return self._compute(call)
        running = current_call()
        calls = 1.0 if running is None else calls_per_step(self._card, running.pipeline, running.arguments)
        if calls == 1:
            take_samples(call, self._branches)
            return gather_samples(self._compute(call), self._branches)
        is_sequential = self._card is not None and self._card.guidance.order == "sequential"
        if not is_sequential or calls != 2:
            raise ParallelError(
                f"the guidance branches of {type(module).__name__} cannot be split: its pipeline calls it {calls:g} times per "
                "step, but it must make two calls and read both results after the second"
            )
        context = self.context.current()
        position = self._locator.locate(self._name, module, context, args, kwargs)
        self._locator.advance(position, context)
        return self._sequential(module, call, position.ordinal)

    def _compute(self, call: BoundArguments) -> Any:
        try:
            return self.fn_ref.original_forward(*call.args, **call.kwargs)
        except UnsupportedByCompiler as error:
            raise ParallelError(
                "processes cannot communicate inside a compiled graph; compile blocks with fullgraph=False: "
                f"{str(error).splitlines()[0]}"
            ) from error

    def _sequential(self, module: nn.Module, call: BoundArguments, ordinal: int) -> Any:
        """Computes or receives the first or the second branch of a step."""
        first, self._first = self._first, None
        if ordinal > 1 or (ordinal == 0) != (first is None):
            raise ParallelError(
                f"a step must call {type(module).__name__} twice, but did not; its guidance branches cannot be split"
            )
        is_owner = self._branches.rank == ordinal
        output = self._compute(call) if is_owner else None
        specs = self._shapes.learn(call, output, ordinal)
        if not is_owner:
            output = tree_map_only(TensorSpec, lambda spec: _unfilled(spec, call), specs)
        if ordinal == 0:
            self._first = output
            return output
        local, remote = (output, first) if is_owner else (first, output)
        for computed, unfilled in zip(_tensors(local), _tensors(remote), strict=True):
            both = self._branches.all_gather(computed[None], 0, OUTPUT)
            unfilled.copy_(both[1 - self._branches.rank])
        return output


def _unfilled(spec: TensorSpec, call: BoundArguments) -> Tensor:
    """A tensor of NaN, which nobody can mistake for a result."""
    device = next(value.device for value in call.arguments.values() if isinstance(value, Tensor))
    return torch.full(spec.shape, float("nan"), dtype=spec.dtype, device=device)


def _tensors(output: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
