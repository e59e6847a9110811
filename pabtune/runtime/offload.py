"""Offloading of outputs to the host's memory and prefetching them, on a separate CUDA stream.

Knows copies between a device and its host, and in which order sites are called; knows nothing of policies.
"""

from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from pabtune.planning.costs.memory import SITES_AHEAD


class Offloaded(NamedTuple):
    """A tensor in the host's memory (pinned if it came from a CUDA device) and an empty tensor of its dtype and device."""

    values: Tensor
    like: Tensor


class Fetched(NamedTuple):
    """An output that is being copied back to the device, and the event after the copy; None on the CPU."""

    output: Any
    is_there: torch.cuda.Event | None


class KeepingSite(Protocol):
    """A site with one stored output for each of its calls in a forward."""

    outputs: tuple[Any, ...]


class CpuOffloader:
    """Copies outputs of one transformer's sites to the host and back.

    Outputs are prefetched `SITES_AHEAD` sites ahead, in the order in which the sites were called in the previous forward.
    The host issues work long before a CUDA device executes it, and memory is allocated at issue; so the host waits here
    until at most that many copies are in flight.
    """

    def __init__(self) -> None:
        self._stream: torch.cuda.Stream | None = None
        self._order: list[KeepingSite] = []
        self._called: list[KeepingSite] = []
        self._waiting: deque[KeepingSite] = deque()
        self._fetched: dict[int, list[Fetched]] = {}
        self._in_flight: deque[torch.cuda.Event] = deque()

    def begin(self, broadcasting: set[int]) -> None:
        """Begins a forward in which the sites with these ids broadcast, and prefetches for the first of them."""
        self.clear()
        self._waiting = deque(site for site in self._order if id(site) in broadcasting)
        for _ in range(SITES_AHEAD):
            self._fetch_next()

    def clear(self) -> None:
        """Drops unused prefetched outputs, and remembers the order of this forward's calls for the next."""
        self._waiting.clear()
        self._fetched.clear()
        self._order, self._called = self._called or self._order, []

    def record(self, site: KeepingSite) -> None:
        """Notes that a site is called for the first time in this forward."""
        self._called.append(site)

    def fetch(self, site: KeepingSite, call: int) -> Any:
        """Stored output of a site's call, on the device; already prefetched if the order of calls is unchanged."""
        if call == 0:
            self._fetch_next()
        ahead = self._fetched.get(id(site))
        if call == len(site.outputs) - 1:
            self._fetched.pop(id(site), None)
        fetched = ahead[call] if ahead is not None else self._fetch(site.outputs[call])
        if fetched.is_there is not None:
            for tensor in _tensors(fetched.output):
                current = torch.cuda.current_stream(tensor.device)
                current.wait_event(fetched.is_there)
                tensor.record_stream(current)
                # By the time the device reaches this event, earlier sites have used their outputs.
                self._wait_for_earlier(current.record_event())
        return fetched.output

    def save(self, output: Any) -> Any:
        """Copies an output to the host's memory, concurrently with computation; its structure stays."""
        if isinstance(output, Tensor):
            return Offloaded(self._to_host(output) if output.is_cuda else output.clone(), output.new_empty(0))
        return type(output)(map(self.save, output)) if isinstance(output, tuple | list) else output

    def load(self, stored: Any) -> Any:
        """Copies a stored output back to its device, and makes the current stream wait for the copy."""
        fetched = self._fetch(stored)
        if fetched.is_there is not None:
            for tensor in _tensors(fetched.output):
                current = torch.cuda.current_stream(tensor.device)
                current.wait_event(fetched.is_there)
                tensor.record_stream(current)
        return fetched.output

    def _fetch_next(self) -> None:
        if self._waiting:
            site = self._waiting.popleft()
            self._fetched[id(site)] = [self._fetch(stored) for stored in site.outputs]

    def _fetch(self, stored: Any) -> Fetched:
        with torch.cuda.stream(self._stream):  # does nothing without a stream
            output = _to_device(stored)
        return Fetched(output, self._stream.record_event() if self._stream is not None else None)

    def _to_host(self, tensor: Tensor) -> Tensor:
        if self._stream is None:
            self._stream = torch.cuda.Stream(tensor.device)
        values = torch.empty_like(tensor, device="cpu", pin_memory=True)
        source = tensor.clone()  # the model may change the tensor in place before its copy to the host has begun
        self._stream.wait_stream(torch.cuda.current_stream(tensor.device))
        with torch.cuda.stream(self._stream):
            values.copy_(source, non_blocking=True)
        source.record_stream(self._stream)
        self._wait_for_earlier(self._stream.record_event())
        return values

    def _wait_for_earlier(self, event: torch.cuda.Event) -> None:
        """Blocks the host until at most `SITES_AHEAD` copies are in flight."""
        self._in_flight.append(event)
        while len(self._in_flight) > SITES_AHEAD:
            self._in_flight.popleft().synchronize()


def _to_device(stored: Any) -> Any:
    if isinstance(stored, Offloaded):
        return stored.values.to(stored.like.device, non_blocking=True, copy=True)
    return type(stored)(map(_to_device, stored)) if isinstance(stored, tuple | list) else stored


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, tuple | list):
        for part in output:
            yield from _tensors(part)
