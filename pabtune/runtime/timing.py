"""Time on the device: wall time on the CPU, events on CUDA, added up without waiting."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


class Stopwatch:
    """Adds up time per key; reading waits for the device, stopping does not.

    Args:
        device: where the timed work runs.
    """

    def __init__(self, device: torch.device) -> None:
        self._is_cuda = device.type == "cuda"
        self._seconds: dict[object, float] = {}
        self._began: dict[object, Any] = {}
        self._events: list[tuple[object, Any, Any]] = []

    def start(self, key: object) -> None:
        """Starts to time `key`, until `stop`."""
        self._began[key] = self._mark()

    def stop(self, key: object) -> None:
        """Adds the time since `start` to `key`."""
        began, ended = self._began.pop(key), self._mark()
        if isinstance(began, float) and isinstance(ended, float):
            self._seconds[key] = self._seconds.get(key, 0.0) + ended - began
        else:
            self._events.append((key, began, ended))

    @contextmanager
    def time(self, key: object) -> Iterator[None]:
        """Adds the time of the block to `key`."""
        self.start(key)
        yield
        self.stop(key)

    def seconds(self) -> dict[object, float]:
        """Time per key so far."""
        if self._events:
            torch.cuda.synchronize()
            for key, begin, end in self._events:
                self._seconds[key] = self._seconds.get(key, 0.0) + begin.elapsed_time(end) / 1000
            self._events.clear()
        return dict(self._seconds)

    def _mark(self) -> Any:
        """Now, in seconds; on CUDA, an event that the device will pass."""
        if not self._is_cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


def now(device: torch.device) -> float:
    """Wall time in seconds after all work on the device so far is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
