"""Collectives between processes, which count their number and the bytes that leave a process.

Knows tensors and groups, but nothing of attention.
"""

from collections import Counter
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from pabtune.parallel.mesh import Dimension, Mesh, exchanging

OUTPUT = "output"
"""Purpose of gathering the output at the end of a call, which no policy saves."""


class Traffic:
    """Messages and bytes that this process sent, by purpose."""

    def __init__(self) -> None:
        self.messages: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()

    def add(self, purpose: str, sent_bytes: int) -> None:
        """Counts one collective."""
        self.messages[purpose] += 1
        self.bytes[purpose] += sent_bytes

    def clear(self) -> None:
        """Resets all counts."""
        self.messages.clear()
        self.bytes.clear()

    def to_document(self) -> dict[str, dict[str, int]]:
        """Messages and bytes by purpose, as JSON."""
        return {name: {"messages": count, "bytes": self.bytes[name]} for name, count in self.messages.items()}


class Communicator:
    """Collectives of the processes that share one dimension of a mesh.

    Compiled graphs break at each collective: traced ones would not wait for their result.

    Args:
        mesh: the processes.
        dimension: dimension that they share.
        traffic: counts what is sent.

    Attributes:
        size: number of these processes.
        rank: rank of this process among them.
    """

    def __init__(self, mesh: Mesh, dimension: Dimension, traffic: Traffic) -> None:
        self.size = dist.get_world_size(mesh.group(dimension))
        self.rank = dist.get_rank(mesh.group(dimension))
        self._mesh, self._dimension, self._traffic = mesh, dimension, traffic

    @torch.compiler.disable
    def all_to_all(self, parts: Tensor, purpose: str) -> Tensor:
        """All-to-all: sends part i along the first dimension to process i; returns the parts received, by sender."""
        parts = parts.contiguous()
        received = torch.empty_like(parts)
        with exchanging():
            dist.all_to_all_single(received, parts, group=self._mesh.group(self._dimension))
        self._traffic.add(purpose, parts.nbytes // self.size * (self.size - 1))
        return received

    @torch.compiler.disable
    def all_gather(self, part: Tensor, dim: int, purpose: str) -> Tensor:
        """All-gather: concatenates the parts of all processes along a dimension."""
        part = part.contiguous()
        parts = [torch.empty_like(part) for _ in range(self.size)]
        with exchanging():
            dist.all_gather(parts, part, group=self._mesh.group(self._dimension))
        self._traffic.add(purpose, part.nbytes * (self.size - 1))
        return torch.cat(parts, dim=dim)

    def broadcast_tensor(  # noqa: PLR0913, PLR0917, receivers must know shape, type and device
        self,
        part: Tensor | None,
        owner: int,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        device: torch.device,
        purpose: str,
    ) -> Tensor:
        """Broadcast: sends the tensor of the owner to all; the others pass None."""
        sent = torch.empty(shape, dtype=dtype, device=device) if part is None else part.contiguous()
        group = self._mesh.group(self._dimension)
        with exchanging():
            dist.broadcast(sent, group_src=owner, group=group)
        self._traffic.add(purpose, sent.nbytes * (self.size - 1) if part is not None else 0)
        return sent

    @torch.compiler.disable
    def all_gather_object(self, value: Any) -> list[Any]:
        """All-gather of small objects, by rank; their traffic is not counted."""
        values: list[Any] = [None] * self.size
        with exchanging():
            dist.all_gather_object(values, value, group=self._mesh.group(self._dimension))
        return values

    def reduce_scatter(self, x: Tensor, dim: int, purpose: str) -> Tensor:
        """Reduce-scatter: sums over all processes; returns this process' part along a dimension."""
        # gloo has no reduce-scatter; an all-to-all and a sum send as many bytes.
        return self.all_to_all(torch.stack(x.chunk(self.size, dim=dim)), purpose).sum(0)

    def shard(self, x: Tensor, dim: int) -> Tensor:
        """This process' part of a tensor along a dimension, zero-padded to a multiple of the number of processes."""
        return padded(x, dim, self.size).chunk(self.size, dim=dim)[self.rank]


def padded(x: Tensor, dim: int, multiple: int) -> Tensor:
    """`x`, zero-padded at the end of a dimension to a multiple."""
    missing = -x.shape[dim] % multiple
    if missing == 0:
        return x
    shape = list(x.shape)
    shape[dim] = missing
    return torch.cat([x, x.new_zeros(shape)], dim=dim)
