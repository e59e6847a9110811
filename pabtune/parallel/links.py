"""Measuring how fast processes exchange: all-to-alls of growing sizes.

Knows groups and clocks; knows nothing of models.
"""

from collections.abc import Mapping, Sequence
from statistics import median

import torch
from torch import Tensor

from pabtune.parallel.collectives import Exchange, Traffic
from pabtune.parallel.mesh import Mesh
from pabtune.planning.costs.latency import fit_link
from pabtune.records.links import Link
from pabtune.runtime.timing import now

SIZES = tuple(2**power for power in range(10, 27, 2))
"""Bytes of a message: 1 KiB to 64 MiB."""

PURPOSE = "links"


def measure_links(
    mesh: Mesh,
    name: str,
    device: torch.device,
    repeats: int,
    versions: Mapping[str, str],
    sizes: Sequence[int] = SIZES,
) -> Link:
    """The link between the processes that share a sequence; every process calls it.

    Args:
        mesh: the processes.
        name: of the link.
        device: of this process.
        repeats: of each size; the median counts, and of all processes the slowest.
        versions: of libraries, for the reader.
        sizes: bytes of a message.
    """
    exchange = Exchange(mesh, "sequence", Traffic())
    rows = []
    for size in sizes:
        message = torch.zeros(exchange.size, max(1, size // exchange.size // 4), device=device)
        seconds = [_once(exchange, message, device) for _ in range(repeats + 1)][1:]  # the first warms up
        slowest = max(exchange.tell(median(seconds)))
        rows.append({"bytes": message.nbytes // exchange.size * (exchange.size - 1), "seconds": slowest})
    per_message, per_second = fit_link([row["bytes"] for row in rows], [row["seconds"] for row in rows])
    return Link(
        name=name,
        seconds=per_message,
        bytes_per_second=per_second,
        provenance={
            "processes": exchange.size,
            "device": device.type,
            "repeats": repeats,
            "versions": dict(versions),
            "all_to_all": rows,
        },
    )


def _once(exchange: Exchange, message: Tensor, device: torch.device) -> float:
    exchange.tell(None)  # all begin together
    began = now(device)
    exchange.swap(message, PURPOSE)
    return now(device) - began
