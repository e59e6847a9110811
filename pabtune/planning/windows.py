"""Stable windows: where along the denoising steps a site's output hardly changes.

Method. The curve (change from the step before, steps 1..N-1) is smoothed by a running median of three. Its *floor* is
its lower quartile, its *limit* is `tolerance` times the floor. The longest run of steps under the limit is the stable
window. Steps left and right of it decide the shape: an end counts as high when the curve's largest value there is above
the limit and lies outside the window. If the window covers less than `least_share` of the steps, or the curve crosses the
limit more than `most_crossings` times, the curve is `noisy` and has no window: a U is never forced on it.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import median_filter

from pabtune.records.profiles import StableWindow

TOLERANCE = 2.0
LEAST_SHARE = 0.4
MOST_CROSSINGS = 4


def find_window(
    change: NDArray[np.floating],
    *,
    tolerance: float = TOLERANCE,
    least_share: float = LEAST_SHARE,
    most_crossings: int = MOST_CROSSINGS,
) -> StableWindow:
    """The stable window of a curve of change, (steps,), whose first entry (no predecessor) is ignored.

    A curve of fewer than 4 steps is `noisy`: there is nothing to tell.
    """
    steps = len(change)
    curve = median_filter(np.asarray(change[1:], dtype=float), size=3, mode="nearest") if steps > 1 else np.zeros(0)
    floor = float(np.quantile(curve, 0.25)) if curve.size else 0.0
    limit = tolerance * floor
    is_stable = curve <= limit
    crossings = int(np.count_nonzero(np.diff(is_stable)))
    start, stop = _longest_run(is_stable)
    if steps < 4 or (stop - start) < least_share * curve.size or crossings > most_crossings:
        return StableWindow(shape="noisy", start=None, stop=None, floor=floor, limit=limit)
    is_high_left, is_high_right = start > 0, stop < curve.size
    shape = {(True, True): "u", (True, False): "left", (False, True): "right", (False, False): "flat"}
    return StableWindow(
        shape=shape[is_high_left, is_high_right], start=start + 1, stop=stop + 1, floor=floor, limit=limit
    )


def rank_kinds(change: Mapping[str, NDArray[np.floating]]) -> list[dict[str, Any]]:
    """The pyramid: kinds from the least to the most change, by the median of their curves, (steps,) each.

    `margin` is the next kind's change over this one's; None for the last.
    """
    middle = {kind: float(np.median(curve[1:])) if len(curve) > 1 else 0.0 for kind, curve in change.items()}
    order = sorted(middle, key=middle.__getitem__)
    rows: list[dict[str, Any]] = []
    for place, kind in enumerate(order):
        following = middle[order[place + 1]] if place + 1 < len(order) else None
        margin = following / middle[kind] if following is not None and middle[kind] > 0 else None
        rows.append({"kind": kind, "change": middle[kind], "margin": margin})
    return rows


def _longest_run(is_stable: NDArray[np.bool_]) -> tuple[int, int]:
    padded = np.concatenate([[False], is_stable, [False]]).astype(int)
    starts, stops = np.flatnonzero(np.diff(padded) == 1), np.flatnonzero(np.diff(padded) == -1)
    if not len(starts):
        return 0, 0
    longest = int(np.argmax(stops - starts))
    return int(starts[longest]), int(stops[longest])
