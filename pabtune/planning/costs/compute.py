"""FLOPs and predicted time of a run under a compute mask."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pabtune.planning.masks import ComputeMask
from pabtune.records.sites import WHOLE_CALLS


def compute_fraction(mask: ComputeMask, site_flops: Sequence[int], total_flops: int, branches: int = 2) -> float:
    """FLOPs computed over FLOPs of the full run.

    Args:
        mask: the compute mask; `where_called` for models whose transformers alternate.
        site_flops: FLOPs of one call of each site but those of whole calls, in the mask's order.
        total_flops: FLOPs of one step of all transformers that run in it; the mean over steps.
        branches: guidance branches of a step.
    """
    inner, skipped = shares_saved(mask, branches)
    saved_flops = inner.sum(axis=1) @ np.asarray(site_flops, dtype=float) + skipped.sum() * total_flops
    return 1.0 - float(saved_flops) / (total_flops * mask.steps)


def shares_saved(mask: ComputeMask, branches: int = 2) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What is saved inside calls that happen, (sites, steps) without rows of whole calls, and by whole calls, (steps,).

    In shares, 0..1: a step whose guidance difference is broadcast saves one branch, and its sites save of the others.

    Args:
        mask: the compute mask.
        branches: guidance branches of a step, whether they share a call or not.
    """
    rows = [index for index, site in enumerate(mask.sites) if site.kind not in WHOLE_CALLS]
    skipped, halved = mask.calls_skipped, mask.halved
    inner = (mask.broadcasts[rows] & ~skipped[rows]) * (1 - halved[rows] / branches)
    return inner, np.asarray(skipped.any(axis=0) + halved.any(axis=0) / branches)


def predicted_seconds(
    mask: ComputeMask, seconds: NDArray[np.floating], step_seconds: NDArray[np.floating], branches: int = 2
) -> float:
    """Seconds in the transformer over a run: those of the full run less those of the sites that broadcast.

    Args:
        mask: the compute mask.
        seconds: (sites, steps) time in each site, feeders included; 0 where a site is not called. A broadcast saves the
            site's median over the steps, which is robust to a busy machine.
        step_seconds: (steps,) time of each full step.
        branches: guidance branches of a step.
    """
    inner, skipped = shares_saved(mask.where_called(seconds > 0), branches)
    site_seconds = np.array([np.median(row[row > 0]) if (row > 0).any() else 0.0 for row in seconds])
    # Steps take the same time but for the noise of a busy machine: a skipped one saves their mean.
    return float(np.sum(step_seconds) * (1 - skipped.mean()) - inner.sum(axis=1) @ site_seconds)
