"""Timing of device work without synchronization: wall time on the CPU, events on CUDA."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


class Stopwatch:
    """Total time per key. Only `seconds` waits for the device; `start` and `stop` do not.

    Args:
        device: device of the timed work.
    """

    def __init__(self, device: torch.device) -> None:
        self._is_cuda = device.type == "cuda"
        self._seconds: dict[object, float] = {}
        self._began: dict[object, Any] = {}
        self._events: list[tuple[object, Any, Any]] = []

    def start(self, key: object) -> None:
        """Starts the time of `key`, until `stop`."""
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
        """Seconds per key so far."""
        if self._events:
            torch.cuda.synchronize()
            for key, begin, end in self._events:
                self._seconds[key] = self._seconds.get(key, 0.0) + begin.elapsed_time(end) / 1000
            self._events.clear()
        return dict(self._seconds)

    def _mark(self) -> Any:
        """Current time in seconds; on CUDA, an event in the current stream."""
        if not self._is_cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


def now(device: torch.device) -> float:
    """Wall time in seconds, taken after all submitted work on the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
