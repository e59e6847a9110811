"""What processes exchange, counted: the number of collectives and the bytes that leave a process.

Knows tensors and groups; knows nothing of attention.
"""

from collections import Counter
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from pabtune.parallel.mesh import Dimension, Mesh, exchanging


class Traffic:
    """Counts of what this process sent, by purpose."""

    def __init__(self) -> None:
        self.messages: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()

    def note(self, purpose: str, sent: int) -> None:
        """One collective."""
        self.messages[purpose] += 1
        self.bytes[purpose] += sent

    def clear(self) -> None:
        """Starts anew."""
        self.messages.clear()
        self.bytes.clear()

    def to_document(self) -> dict[str, dict[str, int]]:
        """As JSON: per purpose, messages and bytes."""
        return {name: {"messages": count, "bytes": self.bytes[name]} for name, count in self.messages.items()}


class Exchange:
    """Collectives of the processes that share one dimension of a mesh. Graphs break at each: traced, they would not wait.

    Args:
        mesh: the processes.
        dimension: which of them.
        traffic: where to count.
    """

    def __init__(self, mesh: Mesh, dimension: Dimension, traffic: Traffic) -> None:
        self.size = dist.get_world_size(mesh.group(dimension))
        self.rank = dist.get_rank(mesh.group(dimension))
        self._mesh, self._dimension, self._traffic = mesh, dimension, traffic

    @torch.compiler.disable
    def swap(self, parts: Tensor, purpose: str) -> Tensor:
        """All-to-all: part i (of the first dimension) goes to process i; returns what the others sent."""
        parts = parts.contiguous()
        received = torch.empty_like(parts)
        with exchanging():
            dist.all_to_all_single(received, parts, group=self._mesh.group(self._dimension))
        self._traffic.note(purpose, parts.nbytes // self.size * (self.size - 1))
        return received

    @torch.compiler.disable
    def gather(self, part: Tensor, dim: int, purpose: str) -> Tensor:
        """All-gather: every process' part, along a dimension."""
        part = part.contiguous()
        parts = [torch.empty_like(part) for _ in range(self.size)]
        with exchanging():
            dist.all_gather(parts, part, group=self._mesh.group(self._dimension))
        self._traffic.note(purpose, part.nbytes * (self.size - 1))
        return torch.cat(parts, dim=dim)

    def spread(  # noqa: PLR0913, PLR0917, what is received has to be known
        self,
        part: Tensor | None,
        owner: int,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        device: torch.device,
        purpose: str,
    ) -> Tensor:
        """Broadcast: what one process has, to all; the others give None."""
        sent = torch.empty(shape, dtype=dtype, device=device) if part is None else part.contiguous()
        group = self._mesh.group(self._dimension)
        with exchanging():
            dist.broadcast(sent, group_src=owner, group=group)
        self._traffic.note(purpose, sent.nbytes * (self.size - 1) if part is not None else 0)
        return sent

    def tell(self, what: Any) -> list[Any]:
        """What every process says: small things, which are not counted."""
        told: list[Any] = [None] * self.size
        with exchanging():
            dist.all_gather_object(told, what, group=self._mesh.group(self._dimension))
        return told

    def sum_parts(self, whole: Tensor, dim: int, purpose: str) -> Tensor:
        """Reduce-scatter: this process' part, along a dimension, of the sum over all processes."""
        # gloo has no reduce-scatter; an all-to-all and a sum send the same.
        return self.swap(torch.stack(whole.chunk(self.size, dim=dim)), purpose).sum(0)


def padded(x: Tensor, dim: int, multiple: int) -> Tensor:
    """`x` with zeros at the end of a dimension, up to a multiple."""
    missing = -x.shape[dim] % multiple
    if missing == 0:
        return x
    shape = list(x.shape)
    shape[dim] = missing
    return torch.cat([x, x.new_zeros(shape)], dim=dim)
