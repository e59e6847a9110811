"""CFG parallelism: each half of the processes computes one branch of classifier-free guidance.

Batched CFG: both branches are samples of one call, and each half computes its samples. Sequential CFG: the pipeline calls the
transformer once for each branch, and each half makes one of the two calls. The other call returns a tensor that is filled
when its branch has been computed: before the second call returns, and so before anything is done with it.

Source: CFG parallelism as in xDiT (https://arxiv.org/abs/2411.01738).
"""

from dataclasses import dataclass
from inspect import BoundArguments
from typing import Any

import torch
from torch import Tensor, nn

from pabtune.catalog import ModelCard
from pabtune.libraries.diffusers_internals import CacheContextReader, StatefulHook
from pabtune.libraries.torch_internals import UnsupportedByCompiler, tree_leaves, tree_map_only
from pabtune.models.guidance import calls_per_step
from pabtune.parallel.batch import gather_samples, take_samples
from pabtune.parallel.collectives import OUTPUT, Communicator
from pabtune.parallel.sharded_model import bind_arguments
from pabtune.records.errors import ParallelError
from pabtune.runtime.locator import Locator
from pabtune.runtime.pipeline_calls import PipelineCall, current_call


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """Shape and type of a tensor."""

    shape: tuple[int, ...]
    dtype: torch.dtype


class OutputShapes:
    """Shapes of what a transformer returns, learned from the processes that compute it.

    The first call with inputs of a kind is waited for; all later ones are not. Every process sees the same calls, and so
    knows the same kinds.

    Args:
        communicator: of the two halves.
    """

    def __init__(self, communicator: Communicator) -> None:
        self._communicator = communicator
        self._specs: dict[Any, Any] = {}

    def learn(self, call: BoundArguments, output: Any, owner: int) -> Any:
        """The output as a tree of `TensorSpec`.

        Args:
            call: the arguments.
            output: what the call returned; None in processes that do not compute it.
            owner: the half that computes it.
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


class CfgHook(StatefulHook):
    """Is on a transformer, outermost: this process' guidance branch in, both out.

    Observes the pipeline's calls: which call of a step goes on, is told by a locator of the pipeline call's own.

    Args:
        branches: communicator of the two halves.
        name: the transformer's name in the pipeline.
        card: of the transformer's class; None without one.
    """

    def __init__(self, branches: Communicator, name: str, card: ModelCard | None) -> None:
        super().__init__()
        self.context = CacheContextReader()
        self._branches, self._name, self._card = branches, name, card
        self._shapes = OutputShapes(branches)
        self._locator = Locator(lambda: None)
        self._first: Any = None

    def begin_call(self, call: PipelineCall) -> None:
        """A call of the pipeline begins (see `CallObserver`); one that was stopped leaves nothing behind."""
        self._locator = Locator(lambda: getattr(call.pipeline, "scheduler", None))
        self._first = None

    def end_call(self, call: PipelineCall) -> None:
        """A call of the pipeline is over (see `CallObserver`)."""
        self._first = None

    def reset_state(self, module: nn.Module) -> nn.Module:
        """Called by diffusers when a pipeline is done."""
        return module

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Calls with this process' samples, or only where the call is this process'.

        Raises:
            ParallelError: the pipeline's calls are no two that could be made at once.
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
                f"the branches of {type(module).__name__} cannot be shared: its pipeline calls it {calls:g} times per step, "
                "and these are not two calls of which it looks at the results after the second"
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
                "processes cannot exchange inside a compiled graph; compile blocks with fullgraph=False: "
                f"{str(error).splitlines()[0]}"
            ) from error

    def _sequential(self, module: nn.Module, call: BoundArguments, ordinal: int) -> Any:
        """The first or the second branch of a step."""
        first, self._first = self._first, None
        if ordinal > 1 or (ordinal == 0) != (first is None):
            raise ParallelError(
                f"a step of {type(module).__name__} has another number of calls than two; its branches cannot be shared"
            )
        is_ours = self._branches.rank == ordinal
        output = self._compute(call) if is_ours else None
        specs = self._shapes.learn(call, output, ordinal)
        if not is_ours:
            output = tree_map_only(TensorSpec, lambda spec: _unfilled(spec, call), specs)
        if ordinal == 0:
            self._first = output
            return output
        ours, theirs = (output, first) if is_ours else (first, output)
        for computed, unfilled in zip(_tensors(ours), _tensors(theirs), strict=True):
            both = self._branches.all_gather(computed[None], 0, OUTPUT)
            unfilled.copy_(both[1 - self._branches.rank])
        return output


def _unfilled(spec: TensorSpec, call: BoundArguments) -> Tensor:
    """A tensor that cannot be taken for a result."""
    device = next(value.device for value in call.arguments.values() if isinstance(value, Tensor))
    return torch.full(spec.shape, float("nan"), dtype=spec.dtype, device=device)


def _tensors(output: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
