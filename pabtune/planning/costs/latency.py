"""Seconds of a run: computing at the rates of a device, shared by several, and communication over an interconnect.

Where a profile was measured, each kind of site computes at the rate that it was measured at; else all at one rate. What runs
outside the transformer was not measured, and computes at the transformer's overall rate. The model knows nothing of memory,
of how well a smaller part still fills a device, or of exchanges that overlap with computing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from pabtune.planning.costs.communication import Communication
from pabtune.records.errors import PolicyError
from pabtune.records.interconnects import Interconnect
from pabtune.records.sites import Site


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """FLOPs per second that a device reaches in a model.

    Attributes:
        overall: rate in the transformer as a whole, and in everything else.
        rest: rate between the sites of the named kinds.
        kinds: rate in the sites of each kind.
    """

    overall: float
    rest: float
    kinds: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for rate in (self.overall, self.rest, *self.kinds.values()):
            if rate <= 0:
                raise PolicyError(f"a device computes at more than 0 FLOPs per second, not {rate}")

    @classmethod
    def even(cls, rate: float) -> Self:
        """One rate for everything."""
        return cls(overall=rate, rest=rate)

    def seconds(self, flops: float, per_kind: Mapping[str, float]) -> float:
        """Time of a number of FLOPs in the transformer, some of which are in the sites of each kind."""
        rest = flops - sum(per_kind.values())
        return rest / self.rest + sum(count / self.kinds.get(kind, self.rest) for kind, count in per_kind.items())


def measured_rates(
    sites: Sequence[Site],
    site_flops: Sequence[int],
    total_flops: int,
    seconds: NDArray[np.floating],
    step_seconds: NDArray[np.floating],
) -> Rates:
    """Rates of the device on which a profile was measured.

    Args:
        sites: sites of the model.
        site_flops: FLOPs of one call of each.
        total_flops: FLOPs of one step of the transformer.
        seconds: (sites, steps) time in each site.
        step_seconds: (steps,) time of each step.
    """
    medians = np.array([np.median(row[row > 0]) if (row > 0).any() else 0.0 for row in seconds])
    flops = np.asarray(site_flops, dtype=float)
    kinds = {}
    for kind in dict.fromkeys(site.kind for site in sites):
        rows = [index for index, site in enumerate(sites) if site.kind == kind]
        if medians[rows].sum() > 0 and flops[rows].sum() > 0:
            kinds[str(kind)] = float(flops[rows].sum() / medians[rows].sum())
    rest_seconds = float(np.median(step_seconds) - medians.sum())
    rest_flops = float(total_flops - flops.sum())
    overall = float(total_flops / np.median(step_seconds))
    # Between the sites there are few FLOPs, but they take time.
    rest = rest_flops / rest_seconds if rest_flops > 0 < rest_seconds else overall
    return Rates(overall=overall, rest=rest, kinds=kinds)


def predicted_latency(
    parallel_seconds: float, serial_seconds: float, share: float, sent: Communication, interconnect: Interconnect
) -> float:
    """Seconds of a run on several devices.

    Args:
        parallel_seconds: time that one device takes for the parallel work.
        serial_seconds: time of the work that is not shared.
        share: fraction of the parallel work on the slowest device (padding included).
        sent: communication of each device.
        interconnect: between the devices.
    """
    return parallel_seconds * share + serial_seconds + interconnect.seconds(sent.messages, sent.wire_bytes)


UNRESOLVED = 1e3
"""Where larger messages take no longer, the bandwidth is too high to be seen: the bytes of the largest message are then
taken for this fraction of its time, one part in a thousand, which is below the noise of the measurements."""


def fit_interconnect(sizes: Sequence[float], seconds: Sequence[float]) -> tuple[float, float]:
    """Latency and bytes per second of an interconnect, from measurements; neither is negative.

    The sum of squared relative errors is least.

    Args:
        sizes: bytes that left a process in each measurement.
        seconds: time of each.
    """
    times = np.asarray(seconds, dtype=float)
    rows = np.stack([np.ones(len(times)), np.asarray(sizes, dtype=float)], axis=1) / times[:, None]
    (per_message, per_byte), _ = nnls(rows, np.ones(len(times)))
    lowest = float(np.max(times) / np.max(sizes)) / UNRESOLVED
    return float(per_message), 1 / float(per_byte if per_byte > 0 else lowest)
