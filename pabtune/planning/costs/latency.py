"""Seconds of a run: compute at the rates of a device, divided among several, plus communication over an interconnect.

With a profile, each kind of site computes at its measured rate; without one, everything computes at one rate. Work outside
the transformer is not measured and computes at the transformer's overall rate. The model ignores memory, the lower
utilization of smaller parts, and overlap of communication with compute.
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

LOWEST_RATE, HIGHEST_RATE = 1.0, 1e30
"""FLOPs per second: no device is slower or faster; predicted times stay numbers within them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """FLOPs per second that a device reaches in a model.

    Attributes:
        overall: rate of the entire transformer, and of everything outside it.
        rest: rate of the transformer outside the sites of the named kinds.
        kinds: rate of the sites of each kind.
    """

    overall: float
    rest: float
    kinds: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for rate in (self.overall, self.rest, *self.kinds.values()):
            if not LOWEST_RATE <= rate <= HIGHEST_RATE:
                raise PolicyError(
                    f"a device must compute more than 0 FLOPs per second, not {rate}; {LOWEST_RATE:g} to {HIGHEST_RATE:g} "
                    "are taken"
                )

    @classmethod
    def even(cls, rate: float) -> Self:
        """One rate for everything."""
        return cls(overall=rate, rest=rate)

    def seconds(self, flops: float, per_kind: Mapping[str, float]) -> float:
        """Seconds of a number of FLOPs in the transformer, of which `per_kind` are in the sites of each kind."""
        rest = flops - sum(per_kind.values())
        return rest / self.rest + sum(count / self.kinds.get(kind, self.rest) for kind, count in per_kind.items())


def measured_rates(
    sites: Sequence[Site],
    site_flops: Sequence[int],
    total_flops: int,
    seconds: NDArray[np.floating],
    step_seconds: NDArray[np.floating],
) -> Rates:
    """Rates of the device that a profile was measured on.

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
    # Outside the sites there are few FLOPs, but they take time.
    rest = rest_flops / rest_seconds if rest_flops > 0 < rest_seconds else overall
    return Rates(overall=overall, rest=rest, kinds=kinds)


def predicted_latency(
    parallel_seconds: float, serial_seconds: float, share: float, sent: Communication, interconnect: Interconnect
) -> float:
    """Seconds of a run on several devices.

    Args:
        parallel_seconds: time of the parallel work on one device.
        serial_seconds: time of the work that is not divided.
        share: fraction of the parallel work on the slowest device (padding included).
        sent: communication of each device.
        interconnect: interconnect between the devices.
    """
    return parallel_seconds * share + serial_seconds + interconnect.seconds(sent.messages, sent.wire_bytes)


UNRESOLVED = 1e3
"""Where larger messages take no longer, the bandwidth is too high to measure. The bytes of the largest message are then taken
to account for 1 / UNRESOLVED of its time, which is below the noise of the measurements."""


def fit_interconnect(sizes: Sequence[float], seconds: Sequence[float]) -> tuple[float, float]:
    """Latency and bytes per second of an interconnect, fitted to measurements.

    Non-negative least squares of the relative errors.

    Args:
        sizes: bytes that left a process in each measurement.
        seconds: time of each.
    """
    times = np.asarray(seconds, dtype=float)
    rows = np.stack([np.ones(len(times)), np.asarray(sizes, dtype=float)], axis=1) / times[:, None]
    (per_message, per_byte), _ = nnls(rows, np.ones(len(times)))
    lowest = float(np.max(times) / np.max(sizes)) / UNRESOLVED
    return float(per_message), 1 / float(per_byte if per_byte > 0 else lowest)
