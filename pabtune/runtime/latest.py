"""The latest session of each thread: what a thread asks about is its own latest call, never that of another request.

Knows threads; knows nothing of what a session holds.
"""

import threading
from typing import Generic, TypeVar

from pabtune.runtime.pipeline_calls import PipelineCall

SessionT = TypeVar("SessionT")


class Latest(Generic[SessionT]):
    """Session of the call that began last in the asking thread.

    A bare transformer has one session for all of its calls, which every thread gets. What a thread noted is freed with it.
    """

    def __init__(self) -> None:
        self._own = threading.local()
        self._of_all: SessionT | None = None

    def note(self, session: SessionT, call: PipelineCall | None) -> None:
        """Notes a session that begins in this thread; without a `call` it is that of a bare transformer."""
        if call is None:
            self._of_all = session
        else:
            self._own.session = session

    def get(self) -> SessionT | None:
        """The session; None if this thread has made no call."""
        own: SessionT | None = getattr(self._own, "session", None)
        return self._of_all if own is None else own
