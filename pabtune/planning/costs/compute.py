"""FLOPs and predicted time of a run under a compute mask."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pabtune.planning.masks import ComputeMask


def compute_fraction(
    mask: ComputeMask, site_flops: Sequence[int], total_flops: int, called: NDArray[np.bool_] | None = None
) -> float:
    """FLOPs computed over FLOPs of the full run.

    Args:
        mask: which site computes when.
        site_flops: of one call of each site, in the mask's order.
        total_flops: of one step of all transformers that run in it; the mean over the steps.
        called: (sites, steps), which sites are called at all; None = all. A second transformer may take over on the way.
    """
    skips = ~mask.compute if called is None else ~mask.compute & called
    return 1.0 - float(skips.sum(axis=1) @ np.asarray(site_flops, dtype=float)) / (total_flops * mask.steps)


def predicted_seconds(mask: ComputeMask, seconds: NDArray[np.floating], step_seconds: NDArray[np.floating]) -> float:
    """Time in the transformer over the run: all of it, less the time of the sites that broadcast.

    Args:
        mask: which site computes when.
        seconds: (sites, steps) time in each site, feeders included; 0 where a site is not called. What a site takes is its
            median over the steps, which a busy machine hardly moves.
        step_seconds: (steps,) time of each full step.
    """
    called = seconds > 0
    site_seconds = np.array([np.median(row[row > 0]) if (row > 0).any() else 0.0 for row in seconds])
    return float(np.sum(step_seconds) - (~mask.compute & called).sum(axis=1) @ site_seconds)
