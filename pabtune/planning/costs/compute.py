"""FLOPs and predicted time of a run under a compute mask."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pabtune.planning.masks import ComputeMask


def compute_fraction(mask: ComputeMask, site_flops: Sequence[int], total_flops: int) -> float:
    """FLOPs computed over FLOPs of the full run.

    Args:
        mask: which site computes when.
        site_flops: of one call of each site, in the mask's order.
        total_flops: of one step of the whole transformer.
    """
    skipped = (~mask.compute).sum(axis=1) @ np.asarray(site_flops, dtype=float)
    return 1.0 - float(skipped) / (total_flops * mask.steps)


def predicted_seconds(
    mask: ComputeMask, site_seconds: NDArray[np.floating], step_seconds: NDArray[np.floating]
) -> float:
    """Time in the transformer over the run: all of it, less the time of the sites that broadcast.

    Args:
        mask: which site computes when.
        site_seconds: (sites,) time of one call, feeders included; the median over steps is the fairest.
        step_seconds: (steps,) time of each full step.
    """
    skipped = (~mask.compute).sum(axis=1) @ np.asarray(site_seconds, dtype=float)
    return float(np.sum(step_seconds) - skipped)
