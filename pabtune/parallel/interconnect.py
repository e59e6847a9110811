"""Measuring the interconnect between processes by all-to-alls of increasing size.

Knows groups and clocks, but nothing of models.
"""

from collections.abc import Mapping, Sequence
from statistics import median

import torch
from torch import Tensor

from pabtune.parallel.collectives import Communicator, Traffic
from pabtune.parallel.mesh import Mesh
from pabtune.planning.costs.latency import fit_interconnect
from pabtune.records.interconnects import Interconnect
from pabtune.runtime.timing import now

SIZES = tuple(2**power for power in range(10, 27, 2))
"""Message sizes in bytes: 1 KiB to 64 MiB."""

PURPOSE = "interconnect"


def measure_interconnect(
    mesh: Mesh,
    name: str,
    device: torch.device,
    repeats: int,
    versions: Mapping[str, str],
    sizes: Sequence[int] = SIZES,
) -> Interconnect:
    """Measures the interconnect between the processes that share a sequence; every process calls it.

    Args:
        mesh: the processes.
        name: name of the interconnect.
        device: device of this process.
        repeats: measurements of each size, of which the median is taken, and then the maximum over processes.
        versions: versions of libraries, for the record.
        sizes: message sizes in bytes.
    """
    communicator = Communicator(mesh, "sequence", Traffic())
    rows = []
    for size in sizes:
        message = torch.zeros(communicator.size, max(1, size // communicator.size // 4), device=device)
        seconds = [_once(communicator, message, device) for _ in range(repeats + 1)][1:]  # the first is a warm-up
        slowest = max(communicator.all_gather_object(median(seconds)))
        rows.append({"bytes": message.nbytes // communicator.size * (communicator.size - 1), "seconds": slowest})
    latency_s, bandwidth = fit_interconnect([row["bytes"] for row in rows], [row["seconds"] for row in rows])
    return Interconnect(
        name=name,
        latency_s=latency_s,
        bytes_per_second=bandwidth,
        provenance={
            "processes": communicator.size,
            "device": device.type,
            "repeats": repeats,
            "versions": dict(versions),
            "all_to_all": rows,
        },
    )


def _once(communicator: Communicator, message: Tensor, device: torch.device) -> float:
    communicator.all_gather_object(None)  # a barrier, so that all start at the same time
    began = now(device)
    communicator.all_to_all(message, PURPOSE)
    return now(device) - began
