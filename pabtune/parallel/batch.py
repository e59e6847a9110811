"""Batch parallelism: each process computes some samples of a call and gathers the others.

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
    """Hook on a transformer that computes this process' samples and returns all samples.

    Args:
        communicator: processes that share the samples.
    """

    def __init__(self, communicator: Communicator) -> None:
        super().__init__()
        self._communicator = communicator

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Calls the transformer with this process' samples and gathers the output."""
        call = bind_arguments(module, args, kwargs)
        take_samples(call, self._communicator)
        output = self.fn_ref.original_forward(*call.args, **call.kwargs)
        return gather_samples(output, self._communicator)


def take_samples(call: BoundArguments, communicator: Communicator) -> None:
    """Replaces the tensors among the arguments of a call by this process' samples of them.

    Args:
        call: of a transformer. The first tensor tells the number of samples; tensors of the same length are split.
        communicator: processes that share the samples.

    Raises:
        ParallelError: the number of samples is not a multiple of the number of processes.
    """
    count = communicator.size
    batch = next(len(value) for value in call.arguments.values() if isinstance(value, Tensor))
    if batch % count:
        raise ParallelError(
            f"a call must have a multiple of {count} samples, but has {batch}: is guidance on, are both branches in one "
            "call, and are there enough prompts?"
        )
    for name, value in call.arguments.items():
        if isinstance(value, Tensor) and value.ndim > 0 and len(value) == batch:
            call.arguments[name] = value.chunk(count)[communicator.rank]


def gather_samples(output: Any, communicator: Communicator) -> Any:
    """Gathers the output of a call, so that it holds the samples of all processes."""
    return tree_map_only(Tensor, lambda part: communicator.all_gather(part, 0, OUTPUT), output)
