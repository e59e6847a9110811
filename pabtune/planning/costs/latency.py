"""Seconds of a run: what is computed, at the rates of a device, shared by so many, and what is exchanged over a link.

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
from pabtune.records.links import Link
from pabtune.records.sites import Site


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """FLOPs per second that a device reaches in a model.

    Attributes:
        overall: in the whole transformer, and in everything else.
        rest: in what lies between sites of the kinds that are named.
        kinds: in sites of a kind.
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
        """Of so many FLOPs in the transformer, of which so many are in sites of each kind."""
        rest = flops - sum(per_kind.values())
        return rest / self.rest + sum(own / self.kinds.get(kind, self.rest) for kind, own in per_kind.items())


def measured_rates(
    sites: Sequence[Site],
    site_flops: Sequence[int],
    total_flops: int,
    seconds: NDArray[np.floating],
    step_seconds: NDArray[np.floating],
) -> Rates:
    """The rates of a profile.

    Args:
        sites: of the model.
        site_flops: of one call of each.
        total_flops: of one step of the transformer.
        seconds: (sites, steps) time in each site.
        step_seconds: (steps,) time of each step.
    """
    medians = np.array([np.median(row[row > 0]) if (row > 0).any() else 0.0 for row in seconds])
    flops = np.asarray(site_flops, dtype=float)
    kinds = {}
    for kind in dict.fromkeys(site.kind for site in sites):
        own = [index for index, site in enumerate(sites) if site.kind == kind]
        if medians[own].sum() > 0 and flops[own].sum() > 0:
            kinds[str(kind)] = float(flops[own].sum() / medians[own].sum())
    rest_seconds = float(np.median(step_seconds) - medians.sum())
    rest_flops = float(total_flops - flops.sum())
    whole = float(total_flops / np.median(step_seconds))
    # What lies between the sites is hardly FLOPs, but takes time.
    return Rates(overall=whole, rest=rest_flops / rest_seconds if rest_flops > 0 < rest_seconds else whole, kinds=kinds)


def predicted_latency(
    seconds_alone: float, serial_seconds: float, share: float, sent: Communication, link: Link
) -> float:
    """Seconds of a run on several devices.

    Args:
        seconds_alone: that one device takes for what they share.
        serial_seconds: of what one does while the others wait.
        share: of that, which the busiest has: one part in as many as there are, or more where lengths are padded.
        sent: what each exchanges.
        link: between them.
    """
    exchanging = sent.messages * link.seconds + sent.wire_bytes / link.bytes_per_second
    return seconds_alone * share + serial_seconds + exchanging


def fit_link(sizes: Sequence[float], seconds: Sequence[float]) -> tuple[float, float]:
    """Seconds of a message, and bytes per second, of a link: neither below 0, relative errors as small as can be.

    Args:
        sizes: bytes that left a process in each measurement.
        seconds: that each took.
    """
    took = np.asarray(seconds, dtype=float)
    rows = np.stack([np.ones(len(took)), np.asarray(sizes, dtype=float)], axis=1) / took[:, None]
    (per_message, per_byte), _ = nnls(rows, np.ones(len(took)))
    return float(per_message), 1 / float(per_byte) if per_byte > 0 else float(np.max(sizes) / np.max(took)) * 1e3
