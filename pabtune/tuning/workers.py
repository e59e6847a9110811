"""Who works on a study: the identity of a worker, its signs of life, and which open trials have lost theirs.

A worker on the same machine is dead when its process is gone. One on another machine, or in another container, cannot be
looked at: it writes a heartbeat beside its trial, and is dead when the heartbeat has not changed for a while *by the clock of
whoever looks*, so that clocks need not agree. A trial without a worker was asked for by a process that died before it could
sign; that takes less than a second, so that a few seconds of grace suffice.
"""

import os
import platform
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import psutil

CLOCK_S = 5.0
"""The start of a process is told against the machine's clock, which may be set while it runs: it is known to this much."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long to wait for other workers, in seconds.

    Attributes:
        grace_s: a trial that nobody has signed for this long is taken over.
        heartbeat_s: time between two signs of life of a worker; it writes the first one with its name.
        silence_s: a worker that cannot be looked at and gives no sign of life for this long is dead.
        poll_s: time between two looks at a study whose last trials are open elsewhere.
    """

    grace_s: float = 5.0
    heartbeat_s: float = 10.0
    silence_s: float = 60.0
    poll_s: float = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """A search in a process.

    Attributes:
        machine: host name and, on Linux, the namespace of process ids, which differs between containers.
        process: id.
        started: when the process began, in seconds since 1970: process ids are used again.
        token: tells searches in one process apart.
    """

    machine: str
    process: int
    started: float
    token: str

    @classmethod
    def here(cls) -> Self:
        """A new search in this process."""
        process = os.getpid()
        return cls(
            machine=_machine(), process=process, started=_started(process) or 0.0, token=uuid.uuid4().hex
        )  # fmt: skip

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """The worker that `to_document` wrote."""
        return cls(**document)

    def to_document(self) -> dict[str, Any]:
        """The worker as JSON."""
        return asdict(self)

    def is_gone_from(self, machine: str) -> bool:
        """Whether it ran on this machine and its process is over."""
        if self.machine != machine:
            return False
        started = _started(self.process)
        return started is None or abs(started - self.started) > CLOCK_S


@dataclass(frozen=True, slots=True, kw_only=True)
class SignOfLife:
    """What an open trial says of its worker."""

    worker: Worker | None
    heartbeat: int


class Watch:
    """Watches the open trials of a study.

    Args:
        own: who watches, while it has no trial open.
        patience: how long a silence means death.
    """

    def __init__(self, own: Worker, patience: Patience) -> None:
        self._own, self._patience = own, patience
        self._signs: dict[int, SignOfLife] = {}
        self._since: dict[int, float] = {}

    def observe(self, signs: Mapping[int, SignOfLife]) -> None:
        """Takes note of all open trials, by number."""
        now = time.monotonic()
        self._since = {
            number: self._since[number] if self._signs.get(number) == sign else now for number, sign in signs.items()
        }
        self._signs = dict(signs)

    def dead(self) -> list[int]:
        """Numbers of the open trials, as last observed, whose worker is dead."""
        return [number for number in self._signs if self._is_dead(number)]

    def _is_dead(self, number: int) -> bool:
        worker, silence_s = self._signs[number].worker, time.monotonic() - self._since[number]
        if worker is None:
            return silence_s > self._patience.grace_s
        is_gone = worker.token == self._own.token or worker.is_gone_from(self._own.machine)
        return is_gone or silence_s > self._patience.silence_s


@contextmanager
def heartbeat(beat: Callable[[int], None], interval_s: float) -> Iterator[None]:
    """Calls `beat` with 1, 2, ... in a thread for as long as the context lasts."""
    is_over = threading.Event()

    def run() -> None:
        count = 0
        while not is_over.wait(interval_s):
            count += 1
            with suppress(Exception):  # a busy storage may take the next one; one that is gone stops the search itself
                beat(count)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


@contextmanager
def holding_interrupts() -> Iterator[None]:
    """Holds Ctrl-C back until the block is over, so that what is written to a storage is not cut off in the middle."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[Any] = []
    handler = signal.signal(signal.SIGINT, lambda *arguments: received.append(arguments))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
    if received and callable(handler):
        handler(*received[0])


def _machine() -> str:
    namespace = Path("/proc/self/ns/pid")
    return f"{platform.node()} {namespace.readlink()}" if namespace.exists() else platform.node()


def _started(process: int) -> float | None:
    """When a process began; None if there is none, or it has ended and nobody took note of it."""
    try:
        running = psutil.Process(process)
        return None if running.status() == psutil.STATUS_ZOMBIE else running.create_time()
    except psutil.NoSuchProcess:
        return None
