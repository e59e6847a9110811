"""State that the hooks on one transformer share during a call; each call has its own."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pabtune.parallel.attention_modules import Rotary
from pabtune.records.errors import ParallelError


@dataclass(slots=True, kw_only=True)
class CallState:
    """State of one call of a transformer in this process.

    Attributes:
        batch: number of samples of the call.
        length: length of the split axis for the entire video; 0 until a tensor has been cut.
        rotary: rotary embedding along that axis, if there is one.
    """

    batch: int = 0
    length: int = 0
    rotary: Rotary | None = None


class CallScope:
    """Gives all hooks on a transformer access to the state of its current call."""

    def __init__(self) -> None:
        self._state: CallState | None = None

    @property
    def state(self) -> CallState:
        """State of the current call.

        Raises:
            ParallelError: the module was called directly, not through its transformer.
        """
        if self._state is None:
            raise ParallelError("a module of a split transformer was called directly; call the transformer instead")
        return self._state

    @contextmanager
    def call(self, state: CallState) -> Iterator[CallState]:
        """Makes `state` the current one for the duration of a call."""
        before, self._state = self._state, state
        try:
            yield state
        finally:
            self._state = before
