"""Seconds of a run, from its FLOPs and what it exchanges: a device that computes at one rate, links with one speed.

A first guess where nothing was measured. It knows nothing of memory, of how well a kernel fills a device, or of exchanges
that overlap with computing; a profile's measured times know more.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from pabtune.planning.costs.communication import Communication
from pabtune.records.errors import PolicyError


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """Between two devices.

    Attributes:
        seconds: that a message takes, however small.
        bytes_per_second: that leave a device.
    """

    seconds: float
    bytes_per_second: float


LINKS: Mapping[str, Link] = {
    "nvlink": Link(seconds=15e-6, bytes_per_second=300e9),
    "pcie": Link(seconds=20e-6, bytes_per_second=25e9),
    "infiniband": Link(seconds=30e-6, bytes_per_second=45e9),
    "25gbe": Link(seconds=60e-6, bytes_per_second=2.8e9),
}
"""What all-to-alls reach on such links, roughly: not measured by us."""


def predicted_latency(
    shared_flops: float, serial_flops: float, gpus: int, sent: Communication, flops_per_second: float, link: Link
) -> float:
    """Seconds of a run.

    Args:
        shared_flops: that the GPUs share.
        serial_flops: that one does while the others wait.
        gpus: that share.
        sent: what each exchanges.
        flops_per_second: that a GPU reaches in this model.
        link: between them.

    Raises:
        PolicyError: a rate that is not above 0.
    """
    if flops_per_second <= 0:
        raise PolicyError(f"a device computes at more than 0 FLOPs per second, not {flops_per_second}")
    computing = (shared_flops / gpus + serial_flops) / flops_per_second
    return computing + sent.messages * link.seconds + sent.wire_bytes / link.bytes_per_second
