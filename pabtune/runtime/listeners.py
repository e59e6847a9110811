"""Who is told of the calls of a model's transformers, and brings the hooks for its sites and feeders.

A *listener* lives as long as it is attached; a *session* of it as long as one call of the pipeline. What belongs to a run is
the session's, so that runs beside one another do not meet.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Protocol, Self

from diffusers.hooks import ModelHook
from torch import Tensor, nn

from pabtune.records.errors import ModelError
from pabtune.runtime.locator import CallPosition, Locator

Forward = Callable[..., Any]


class Session(Protocol):
    """What a listener does during one call of a pipeline. Calls of one transformer never overlap."""

    def begin(self, position: CallPosition, shape: tuple[int, ...]) -> None:
        """A transformer is about to be called; `shape` is that of its first tensor."""

    def end(self, position: CallPosition) -> None:
        """The call is over."""

    def abort(self, position: CallPosition) -> None:
        """The call ended by an exception, or `begin` or `end` did."""

    def finish(self) -> None:
        """The pipeline's call is over, also after an exception; for a bare transformer, what it holds is to be freed."""


class Listener(Protocol):
    """Brings the hooks, and a session for each call of the pipeline."""

    def start(self, locator: Locator, *, is_compiled: bool) -> Session:
        """A call of the pipeline begins; `locator` knows its schedule once a transformer is called."""

    def site_hook(self, index: int) -> ModelHook:
        """The hook for a site."""

    def feeder_hook(self, index: int) -> ModelHook:
        """The hook for a feeder of a site."""

    def close(self) -> None:
        """The hooks are off the model."""


class MeasuredSite(ModelHook):
    """Asks a measurement for the output of each call of a site."""

    def __init__(self, index: int, measurement: "Measurement") -> None:
        super().__init__()
        self._index, self._measurement = index, measurement

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Asks, while a call is measured."""
        if not self._measurement.is_measuring:
            return self.fn_ref.original_forward(*args, **kwargs)
        return self._measurement.site(self._index, self.fn_ref.original_forward, args, kwargs)


class MeasuredFeeder(MeasuredSite):
    """Asks a measurement for the output of each call of a feeder."""

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Asks, while a call is measured."""
        if not self._measurement.is_measuring:
            return self.fn_ref.original_forward(*args, **kwargs)
        return self._measurement.feeder(self._index, self.fn_ref.original_forward, args, kwargs)


class Measurement(ABC):
    """A listener that is asked for every call of every site; its own session, so that it measures one run at a time."""

    is_measuring = False

    def start(self, locator: Locator, *, is_compiled: bool) -> Self:
        """Measures the call (see `Listener`)."""
        return self

    def begin(self, position: CallPosition, shape: tuple[int, ...]) -> None:
        """Measures until the call is over (see `Session`)."""
        self.is_measuring = True

    def end(self, position: CallPosition) -> None:
        """Lets calls pass until the next `begin` (see `Session`)."""
        self.is_measuring = False

    def abort(self, position: CallPosition) -> None:
        """Lets calls pass until the next `begin` (see `Session`)."""
        self.is_measuring = False

    def finish(self) -> None:  # noqa: B027, most hold nothing
        """Frees what is held (see `Session`)."""

    def close(self) -> None:
        """Frees what is held (see `Listener`)."""
        self.finish()

    def site_hook(self, index: int) -> ModelHook:
        """A hook that asks `site` (see `Listener`)."""
        return MeasuredSite(index, self)

    def feeder_hook(self, index: int) -> ModelHook:
        """A hook that asks `feeder` (see `Listener`)."""
        return MeasuredFeeder(index, self)

    @abstractmethod
    def site(self, index: int, forward: Forward, args: Any, kwargs: Any) -> Any:
        """A site is called; returns its output."""

    @abstractmethod
    def feeder(self, index: int, forward: Forward, args: Any, kwargs: Any) -> Any:
        """A feeder of site `index` is called; returns its output."""


def tensors_of(output: Any) -> list[Tensor]:
    """The tensors that a site returned.

    Raises:
        ModelError: it returned something else.
    """
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, tuple | list):
        return [tensor for part in output if part is not None for tensor in tensors_of(part)]
    raise ModelError(f"a site returned {type(output).__name__}; only tensors and tuples of tensors can be broadcast")
