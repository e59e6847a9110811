"""Splitting the samples of a call over processes, and the guidance branches: those of one call, or calls that come in turns.

Where a pipeline calls the transformer once for each branch, each half of the processes makes one of the two calls. The
other call returns a tensor that is filled when its branch has been computed: before the second call returns, and so before
anything is done with it.

Shapes: B samples of a call.
"""

from collections.abc import Sequence
from inspect import BoundArguments
from typing import TYPE_CHECKING, Any

import torch
from diffusers.hooks import ModelHook
from torch import Tensor, nn
from torch._dynamo.exc import Unsupported
from torch.utils._pytree import tree_leaves, tree_map_only

from pabtune.catalog import ModelCard
from pabtune.models.guidance import calls_per_step
from pabtune.parallel.collectives import Exchange
from pabtune.records.errors import ParallelError
from pabtune.runtime.clock import variables_of_call
from pabtune.runtime.twin import foresee_output

if TYPE_CHECKING:
    from pabtune.parallel.split import Split

OUTPUT = "output"
"""Purpose of the exchange at the end of a call, which no policy saves."""


class SamplesHook(ModelHook):
    """Sits on a transformer: own samples in, all samples out."""

    def __init__(self, split: "Split", card: ModelCard | None) -> None:
        super().__init__()
        self._split, self._card = split, card
        self._waiting: tuple[Any, tuple[Any, Any]] | None = None
        self._foreseen: dict[Any, Any] = {}

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Calls with this process' samples, or in this process' turn."""
        call, values = self._split.bind(module, args, kwargs), variables_of_call()
        calls = calls_per_step(self._card, values["self"], values) if "self" in values else 1
        if self._split.branches.size > 1 and calls > 1:
            if self._card is None or self._card.guidance.order != "sequential" or calls != 2:
                raise ParallelError(
                    f"the branches of {type(module).__name__} cannot be shared: its pipeline calls it {calls:g} times per "
                    "step, and these are not two calls of which it looks at the results after the second"
                )
            return self._in_turns(
                module, call, (values.get("timesteps"), values.get("t", call.arguments.get("timestep")))
            )
        return self._own_part(call, [self._split.samples, self._split.branches])

    def _own_part(self, call: BoundArguments, exchanges: Sequence[Exchange]) -> Any:
        """Own samples in, all out. Branches are outermost: the first half of the samples is of the first one."""
        count, place = 1, 0
        for exchange in exchanges:
            place += exchange.rank * count
            count *= exchange.size
        if count == 1:
            return self._forward(call)
        batch = next(len(value) for value in call.arguments.values() if isinstance(value, Tensor))
        if batch % count:
            raise ParallelError(
                f"{count} parts are made of a call, but it has {batch} samples: is guidance on, in one call, and are there "
                "enough prompts?"
            )
        for name, value in call.arguments.items():
            call.arguments[name] = _samples(value, batch, count, place)
        output = self._forward(call)

        def whole(part: Tensor) -> Tensor:
            for exchange in exchanges:
                part = exchange.gather(part, 0, OUTPUT) if exchange.size > 1 else part
            return part

        return tree_map_only(Tensor, whole, output)

    def _forward(self, call: BoundArguments) -> Any:
        try:
            return self.fn_ref.original_forward(*call.args, **call.kwargs)
        except Unsupported as error:
            raise ParallelError(
                "processes cannot exchange inside a compiled graph; compile blocks with fullgraph=False: "
                f"{str(error).splitlines()[0]}"
            ) from error

    def _in_turns(self, module: nn.Module, call: BoundArguments, step: tuple[Any, Any]) -> Any:
        """The first or the second branch of a step, which is told by its run's and its own timestep: the very same objects."""
        split = self._split
        (first, firsts_step), self._waiting = self._waiting or (None, (None, None)), None
        is_same_run = first is not None and step[0] is firsts_step[0]
        # A run that was stopped between two calls leaves nothing behind.
        is_second = is_same_run and step[1] is firsts_step[1]
        if is_same_run and step[0] is not None and not is_second:
            raise ParallelError(
                f"a step of {type(module).__name__} ended after one call of two; its branches cannot be shared"
            )
        is_own = split.branches.rank == int(is_second)
        output = self._own_part(call, [split.samples]) if is_own else self._placeholder(module, call)
        if not is_second:
            self._waiting = (output, step)
            return output
        own, other = (output, first) if is_own else (first, output)
        for mine, theirs in zip(_tensors(own), _tensors(other), strict=True):
            both = split.branches.gather(mine[None], 0, OUTPUT)
            theirs.copy_(both[1 - split.branches.rank])
        return output

    def _placeholder(self, module: nn.Module, call: BoundArguments) -> Any:
        """What the call would return, not yet filled."""
        key = tuple(
            (name, (value.shape, value.dtype) if isinstance(value, Tensor) else value)
            for name, value in call.arguments.items()
            if isinstance(value, Tensor | bool | int | None)
        )
        if key not in self._foreseen:
            self._foreseen[key] = foresee_output(module, call.args, call.kwargs)
        if self._foreseen[key] is None:
            raise ParallelError(
                f"the branches of {type(module).__name__} cannot be shared: what it returns cannot be told before it is called"
            )
        return tree_map_only(Tensor, _empty, self._foreseen[key])


def _empty(like: Tensor) -> Tensor:
    """Nothing that could be taken for a result."""
    return torch.full(like.shape, float("nan"), dtype=like.dtype, device=like.device)


def _tensors(output: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]


def _samples(value: Any, batch: int, count: int, place: int) -> Any:
    """This process' samples of an argument that has as many as the batch."""
    if not isinstance(value, Tensor) or value.ndim == 0 or len(value) != batch:
        return value
    return value.chunk(count)[place]
