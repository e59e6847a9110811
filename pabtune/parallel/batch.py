"""Splitting the samples of a call: each process computes its own, and gets those of all.

Shapes: B samples of a call.
"""

from inspect import BoundArguments
from typing import Any

from diffusers.hooks import ModelHook
from torch import Tensor, nn

from pabtune.libraries.torch_internals import tree_map_only
from pabtune.parallel.collectives import OUTPUT, Communicator
from pabtune.parallel.sharded_model import bind_arguments
from pabtune.records.errors import ParallelError


class BatchHook(ModelHook):
    """Sits on a transformer: this process' samples in, all samples out.

    Args:
        communicator: of the processes that share the samples.
    """

    def __init__(self, communicator: Communicator) -> None:
        super().__init__()
        self._communicator = communicator

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Calls with this process' samples."""
        call = bind_arguments(module, args, kwargs)
        take_samples(call, self._communicator)
        output = self.fn_ref.original_forward(*call.args, **call.kwargs)
        return gather_samples(output, self._communicator)


def take_samples(call: BoundArguments, communicator: Communicator) -> None:
    """Replaces the arguments of a call by this process' samples of them.

    Args:
        call: of a transformer; every tensor with as many items as the first has one for each sample.
        communicator: of the processes that share the samples.

    Raises:
        ParallelError: the samples are not a multiple of the processes.
    """
    count = communicator.size
    batch = next(len(value) for value in call.arguments.values() if isinstance(value, Tensor))
    if batch % count:
        raise ParallelError(
            f"{count} parts are made of a call, but it has {batch} samples: is guidance on, in one call, and are there "
            "enough prompts?"
        )
    for name, value in call.arguments.items():
        if isinstance(value, Tensor) and value.ndim > 0 and len(value) == batch:
            call.arguments[name] = value.chunk(count)[communicator.rank]


def gather_samples(output: Any, communicator: Communicator) -> Any:
    """The output of a call with the samples of all processes."""
    return tree_map_only(Tensor, lambda part: communicator.all_gather(part, 0, OUTPUT), output)
