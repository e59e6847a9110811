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
from diffusers.hooks import ModelHook
from torch import Tensor, nn
from torch._dynamo.exc import Unsupported
from torch.utils._pytree import tree_leaves, tree_map_only

from pabtune.models.calls import calls_per_step
from pabtune.parallel.attachment import ShardedModel, bind_arguments
from pabtune.parallel.batch import gather_samples, take_samples
from pabtune.parallel.collectives import OUTPUT, Communicator
from pabtune.planning.sharding import IN_TURNS
from pabtune.records.errors import ParallelError
from pabtune.runtime.clock import variables_of_call


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCall:
    """Which call of a denoising step this is.

    Attributes:
        calls: calls of the transformer in a step.
        run: the same object in all calls of a run; None where no pipeline calls.
        step: the same object in all calls of a step.
    """

    calls: float
    run: Any
    step: Any


def locate_call(module: nn.Module, call: BoundArguments) -> StepCall:
    """Which call of a denoising step goes on."""
    values = variables_of_call()
    calls = calls_per_step(type(module).__name__, values["self"], values) if "self" in values else 1
    step = values.get("t", call.arguments.get("timestep"))
    return StepCall(calls=calls, run=values.get("timesteps"), step=step)


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
        self._known: dict[Any, Any] = {}

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
        if key not in self._known:
            specs = tree_map_only(Tensor, lambda x: TensorSpec(shape=tuple(x.shape), dtype=x.dtype), output)
            self._known[key] = self._communicator.all_gather_object(specs)[owner]
        return self._known[key]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Waiting:
    """The first call of a step, whose branch the second one completes."""

    output: Any
    located: StepCall


class CfgHook(ModelHook):
    """Sits on a transformer, outermost: this process' guidance branch in, both out.

    Args:
        sharded: the model.
    """

    def __init__(self, sharded: ShardedModel) -> None:
        super().__init__()
        self._branches = sharded.branches
        self._shapes = OutputShapes(sharded.branches)
        self._waiting: _Waiting | None = None

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Calls with this process' branch, or in this process' turn."""
        call = bind_arguments(module, args, kwargs)
        if self._branches.size == 1:
            return self._compute(call)
        located = locate_call(module, call)
        if located.calls > 1:
            if type(module).__name__ not in IN_TURNS or located.calls != 2:
                raise ParallelError(
                    f"the branches of {type(module).__name__} cannot be shared: its pipeline calls it {located.calls:g} times "
                    "per step, and these are not two calls of which it looks at the results after the second"
                )
            return self._sequential(module, call, located)
        take_samples(call, self._branches)
        return gather_samples(self._compute(call), self._branches)

    def _compute(self, call: BoundArguments) -> Any:
        try:
            return self.fn_ref.original_forward(*call.args, **call.kwargs)
        except Unsupported as error:
            raise ParallelError(
                "processes cannot exchange inside a compiled graph; compile blocks with fullgraph=False: "
                f"{str(error).splitlines()[0]}"
            ) from error

    def _sequential(self, module: nn.Module, call: BoundArguments, located: StepCall) -> Any:
        """The first or the second branch of a step."""
        waiting, self._waiting = self._waiting, None
        # A run that was stopped between two calls leaves nothing behind.
        is_same_run = waiting is not None and located.run is waiting.located.run
        is_second = waiting is not None and is_same_run and located.step is waiting.located.step
        if is_same_run and located.run is not None and not is_second:
            raise ParallelError(
                f"a step of {type(module).__name__} ended after one call of two; its branches cannot be shared"
            )
        branch = int(is_second)
        is_ours = self._branches.rank == branch
        output = self._compute(call) if is_ours else None
        specs = self._shapes.learn(call, output, branch)
        if not is_ours:
            output = tree_map_only(TensorSpec, lambda spec: _unfilled(spec, call), specs)
        if not is_second or waiting is None:
            self._waiting = _Waiting(output=output, located=located)
            return output
        ours, theirs = (output, waiting.output) if is_ours else (waiting.output, output)
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
