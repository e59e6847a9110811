"""Whether all processes of a split make the same calls of a pipeline: the same arguments, and the same noise.

Knows pipeline calls and the mesh; knows nothing of transformers or layouts.
"""

import hashlib
from typing import Any

import torch
from torch import Tensor

from pabtune.parallel.mesh import Mesh
from pabtune.runtime.pipeline_calls import PipelineCall

NOISE = "random state (pass every process a generator with the same seed)"
"""Name of what draws the noise, in messages."""


class SameCalls:
    """Compares the calls of all processes when they begin (see `CallObserver`).

    Without a generator each process would draw noise of its own, and compute its part of a video that is none of the others'.

    Args:
        mesh: of the processes.
    """

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh

    def begin_call(self, call: PipelineCall) -> None:
        """Compares a call with those of the others.

        Raises:
            ParallelError: an argument or the noise differs; the message names it and the process.
        """
        arguments = {name: value for name, value in call.arguments.items() if value is not call.pipeline}
        values = {name: described for name, value in arguments.items() if (described := _described(value)) is not None}
        if arguments.get("latents") is None and arguments.get("generator") is None:
            values[NOISE] = _checksum(torch.get_rng_state())
            if call.pipeline.device.type == "cuda":
                values[NOISE] += _checksum(torch.cuda.get_rng_state(call.pipeline.device))
        self._mesh.agree(values)

    def end_call(self, call: PipelineCall) -> None:
        """Nothing to compare (see `CallObserver`)."""


def _described(value: Any) -> str | None:
    """A value as text that is the same in all processes; None for what cannot be compared, such as functions."""
    match value:
        case None | bool() | int() | float() | str():
            return repr(value)
        case Tensor():
            return _checksum(value)
        case torch.Generator():
            return _checksum(value.get_state())
        case list() | tuple():
            parts = [_described(each) for each in value]
            return None if None in parts else repr(parts)
    return None


def _checksum(tensor: Tensor) -> str:
    """The beginning of a checksum of a tensor's bytes."""
    content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return hashlib.sha256(content).hexdigest()[:12]
