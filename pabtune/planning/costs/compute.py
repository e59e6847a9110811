"""FLOPs and predicted time of a run under a compute mask."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pabtune.planning.masks import ComputeMask


def compute_fraction(mask: ComputeMask, site_flops: Sequence[int], total_flops: int) -> float:
    """FLOPs computed over FLOPs of the full run.

    Args:
        mask: the compute mask; `where_called` for models whose transformers alternate.
        site_flops: FLOPs of one call of each site, in the mask's order.
        total_flops: FLOPs of one step of all transformers that run in it; the mean over steps.
    """
    saved_flops = mask.broadcasts.sum(axis=1) @ np.asarray(site_flops, dtype=float)
    return 1.0 - float(saved_flops) / (total_flops * mask.steps)


def predicted_seconds(mask: ComputeMask, seconds: NDArray[np.floating], step_seconds: NDArray[np.floating]) -> float:
    """Seconds in the transformer over a run: those of the full run less those of the sites that broadcast.

    Args:
        mask: the compute mask.
        seconds: (sites, steps) time in each site, feeders included; 0 where a site is not called. A broadcast saves the
            site's median over the steps, which is robust to a busy machine.
        step_seconds: (steps,) time of each full step.
    """
    site_seconds = np.array([np.median(row[row > 0]) if (row > 0).any() else 0.0 for row in seconds])
    return float(np.sum(step_seconds) - mask.where_called(seconds > 0).broadcasts.sum(axis=1) @ site_seconds)
