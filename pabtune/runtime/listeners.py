"""Interfaces of what can be attached to a model: listeners, their sessions, and measurements.

A *listener* provides the hooks for sites and feeders and lives as long as it is attached; a *session* lives as long as one
call of the pipeline. All state of a run belongs to its session, so that concurrent runs do not interfere.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, Self

import torch
from diffusers.hooks import ModelHook
from torch import Tensor, nn

from pabtune.records.errors import ModelError
from pabtune.runtime.locator import CallPosition, Locator
from pabtune.runtime.payloads import half_of, map_tensors, taken_apart, weighted_sum
from pabtune.runtime.pipeline_calls import PipelineCall

Forward = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Substitute:
    """Output of a transformer call that does not happen."""

    output: Any


@dataclass(frozen=True, slots=True)
class Halved:
    """A transformer call of which the conditional half of the samples computes, and the other half is put together.

    Attributes:
        half: which half is conditional, 0 or 1.
        samples: samples of the call, of both branches.
        difference: unconditional less conditional, for each part of the output.
    """

    half: int
    samples: int
    difference: Any

    def arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The conditional half of the arguments that have an entry for each sample."""

        def halved(value: Any) -> Any:
            has_samples = isinstance(value, Tensor) and value.ndim > 0 and len(value) == self.samples
            return half_of(value, self.half) if has_samples else value

        return tuple(map(halved, args)), {name: halved(value) for name, value in kwargs.items()}

    def complete(self, output: Any) -> Any:
        """The output for both branches, from that for the conditional one."""
        rebuild, conditional = taken_apart(output)
        other = weighted_sum((tuple(self.difference), conditional), (1.0, 1.0))
        branches = (conditional, other) if self.half == 0 else (other, conditional)
        return rebuild(map_tensors(lambda *parts: torch.cat(parts), *branches))


class Session(Protocol):
    """A listener's part in one call of a pipeline. Calls of one transformer never overlap."""

    def begin(self, position: CallPosition, sample: Tensor) -> Substitute | Halved | None:
        """Called before a transformer call; `sample` is its first tensor argument.

        Returns:
            The output to use instead of the call, for which then neither the call nor `end` happens; or what is to
            be left of the call; None = call it.
        """

    def end(self, position: CallPosition, output: Any) -> None:
        """Called after a transformer call, with its output, completed if the call was halved."""

    def abort(self, position: CallPosition) -> None:
        """Called if the transformer call, `begin` or `end` raised an exception."""

    def finish(self) -> None:
        """Called when the pipeline call is over, also after an exception; at the end of a bare transformer's run too."""


class Listener(Protocol):
    """Provides the hooks, and a session for each call of the pipeline."""

    def start(self, locator: Locator, call: PipelineCall | None, *, is_compiled: bool) -> Session:
        """Session for a pipeline call that begins, or for a bare transformer, which has no `call`.

        `locator` knows the schedule from the first transformer call on.
        """

    def site_hook(self, index: int) -> ModelHook:
        """The hook for a site."""

    def feeder_hook(self, index: int) -> ModelHook:
        """The hook for a feeder of a site."""

    def rest(self, transformer: str) -> None:
        """Called after a call of this transformer that belongs to no session: what its hooks counted of it is forgotten."""

    def close(self) -> None:
        """Called after all hooks were removed from the model."""


class MeasuredSite(ModelHook):
    """Hook that lets a measurement compute each call of a site."""

    def __init__(self, index: int, measurement: "Measurement") -> None:
        super().__init__()
        self._index, self._measurement = index, measurement

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Calls the measurement, or the module itself outside a measured call."""
        if not self._measurement.is_measuring:
            return self.fn_ref.original_forward(*args, **kwargs)
        return self._measurement.site(self._index, self.fn_ref.original_forward, args, kwargs)


class MeasuredFeeder(MeasuredSite):
    """Hook that lets a measurement compute each call of a feeder."""

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Calls the measurement, or the module itself outside a measured call."""
        if not self._measurement.is_measuring:
            return self.fn_ref.original_forward(*args, **kwargs)
        return self._measurement.feeder(self._index, self.fn_ref.original_forward, args, kwargs)


class Measurement(ABC):
    """Base of listeners that compute every call of every site. It is its own session, so it measures one run at a time."""

    is_measuring = False

    def start(self, locator: Locator, call: PipelineCall | None, *, is_compiled: bool) -> Self:
        """The measurement itself, as the session (see `Listener`)."""
        return self

    def begin(self, position: CallPosition, sample: Tensor) -> Substitute | None:
        """Starts measuring (see `Session`)."""
        self.is_measuring = True
        return None

    def end(self, position: CallPosition, output: Any) -> None:
        """Stops measuring until the next `begin` (see `Session`)."""
        self.is_measuring = False

    def abort(self, position: CallPosition) -> None:
        """Stops measuring until the next `begin` (see `Session`)."""
        self.is_measuring = False

    def finish(self) -> None:  # noqa: B027, most hold nothing
        """Frees what is held (see `Session`)."""

    def rest(self, transformer: str) -> None:  # noqa: B027, its hooks count nothing
        """Nothing to forget (see `Listener`)."""

    def close(self) -> None:
        """Frees what is held (see `Listener`)."""
        self.finish()

    def site_hook(self, index: int) -> ModelHook:
        """A hook that calls `site` (see `Listener`)."""
        return MeasuredSite(index, self)

    def feeder_hook(self, index: int) -> ModelHook:
        """A hook that calls `feeder` (see `Listener`)."""
        return MeasuredFeeder(index, self)

    @abstractmethod
    def site(self, index: int, forward: Forward, args: Any, kwargs: Any) -> Any:
        """Computes a call of a site and returns its output."""

    @abstractmethod
    def feeder(self, index: int, forward: Forward, args: Any, kwargs: Any) -> Any:
        """Computes a call of a feeder of site `index` and returns its output."""


def tensors_of(output: Any) -> list[Tensor]:
    """All tensors in the output of a site.

    Raises:
        ModelError: the output is not a tensor or a tuple of tensors.
    """
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, tuple | list):
        return [tensor for part in output if part is not None for tensor in tensors_of(part)]
    raise ModelError(f"a site returned {type(output).__name__}; only tensors and tuples of tensors can be broadcast")
