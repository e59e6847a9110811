"""What the hooks on one transformer have to know of the call that goes on. Made anew for each call."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pabtune.parallel.attention_modules import Rotary
from pabtune.records.errors import ParallelError


@dataclass(slots=True, kw_only=True)
class CallState:
    """One call of a transformer in this process.

    Attributes:
        batch: samples of the call.
        length: places along the split axis of the entire video; 0 until a tensor was cut.
        rotary: rotary embedding of these places, if there is one.
    """

    batch: int = 0
    length: int = 0
    rotary: Rotary | None = None


class CallScope:
    """The state of a transformer's call, for all hooks on that transformer."""

    def __init__(self) -> None:
        self._state: CallState | None = None

    @property
    def state(self) -> CallState:
        """The state of the call that goes on.

        Raises:
            ParallelError: the module was called by itself, outside of its transformer.
        """
        if self._state is None:
            raise ParallelError("a module of a split transformer was called by itself; call the transformer")
        return self._state

    @contextmanager
    def call(self, state: CallState) -> Iterator[CallState]:
        """Opens a call of the transformer."""
        before, self._state = self._state, state
        try:
            yield state
        finally:
            self._state = before
