"""Time on the device: wall time on the CPU, events on CUDA, added up without waiting."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Stopwatch:
    """Adds up time per key; reading waits for the device, stopping does not.

    Args:
        device: where the timed work runs.
    """

    def __init__(self, device: torch.device) -> None:
        self._is_cuda = device.type == "cuda"
        self._seconds: dict[object, float] = {}
        self._events: list[tuple[object, torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def time(self, key: object) -> Iterator[None]:
        """Adds the time of the block to `key`."""
        if self._is_cuda:
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            yield
            end.record()
            self._events.append((key, begin, end))
            return
        began = time.perf_counter()
        yield
        self._seconds[key] = self._seconds.get(key, 0.0) + time.perf_counter() - began

    def seconds(self) -> dict[object, float]:
        """Time per key so far."""
        if self._events:
            torch.cuda.synchronize()
            for key, begin, end in self._events:
                self._seconds[key] = self._seconds.get(key, 0.0) + begin.elapsed_time(end) / 1000
            self._events.clear()
        return dict(self._seconds)


def now(device: torch.device) -> float:
    """Wall time in seconds after all work on the device so far is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
