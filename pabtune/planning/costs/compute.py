"""FLOPs and predicted time of a run under a compute mask."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pabtune.planning.masks import ComputeMask


def compute_fraction(mask: ComputeMask, site_flops: Sequence[int], total_flops: int) -> float:
    """FLOPs computed over FLOPs of the full run.

    Args:
        mask: what each site does when; of a model whose transformers take turns, `where_called`.
        site_flops: of one call of each site, in the mask's order.
        total_flops: of one step of all transformers that run in it; the mean over the steps.
    """
    saved_flops = mask.broadcasts.sum(axis=1) @ np.asarray(site_flops, dtype=float)
    return 1.0 - float(saved_flops) / (total_flops * mask.steps)


def predicted_seconds(mask: ComputeMask, seconds: NDArray[np.floating], step_seconds: NDArray[np.floating]) -> float:
    """Time in the transformer over the run: all of it, less the time of the sites that broadcast.

    Args:
        mask: what each site does when.
        seconds: (sites, steps) time in each site, feeders included; 0 where a site is not called. The time that a broadcast
            saves is the site's median over the steps, which a busy machine hardly moves.
        step_seconds: (steps,) time of each full step.
    """
    site_seconds = np.array([np.median(row[row > 0]) if (row > 0).any() else 0.0 for row in seconds])
    return float(np.sum(step_seconds) - mask.where_called(seconds > 0).broadcasts.sum(axis=1) @ site_seconds)
