"""Stable windows: where along the denoising steps a site's output hardly changes.

Method. The curve (change from the step before, steps 1..N-1) is smoothed by a running median of three. Its *floor* is
its lower quartile, its *limit* is `tolerance` times the floor. The longest run of steps under the limit is the stable
window. Steps left and right of it decide the shape: an end counts as high when the curve's largest value there is above
the limit and lies outside the window. If the window covers less than `least_share` of the steps, or the curve crosses the
limit more than `most_crossings` times, the curve is `noisy` and has no window: a U is never forced on it. So it is when more
than one step of the window, and more than `most_breaks` of its steps, are above the limit before smoothing. Those that are not
too many are named as `breaks`: a broadcast there serves what has just changed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import median_filter

from pabtune.planning.curves import ALL_CONTENTS, kind_curves, mean_over_contents
from pabtune.records.profiles import Profile

TOLERANCE = 2.0
LEAST_SHARE = 0.4
MOST_CROSSINGS = 4
MOST_BREAKS = 0.04

Shape = Literal["u", "left", "right", "flat", "noisy"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StableWindow:
    """What a curve of change over steps looks like.

    Attributes:
        shape: `u` (high at both ends), `left` or `right` (high at one end), `flat`, or `noisy`.
        start: first stable step; None when noisy.
        stop: step behind the last stable one; None when noisy.
        floor: level of change in the stable part.
        limit: level below which a step counted as stable.
        breaks: steps inside the window that change more than the limit.
    """

    shape: Shape
    start: int | None
    stop: int | None
    floor: float
    limit: float
    breaks: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedKind:
    """A kind's place in the pyramid.

    Attributes:
        kind: of site.
        change: median of its curve of change.
        margin: change of the next kind over its own; None for the last kind, and where its own is 0.
    """

    kind: str
    change: float
    margin: float | None


def windows_of(profile: Profile) -> dict[str, dict[str, StableWindow]]:
    """Stable windows by content class and kind; those over all content classes under `ALL_CONTENTS`."""
    changes = {content: mean_over_contents(profile, "change", content) for content in profile.contents}
    changes[ALL_CONTENTS] = mean_over_contents(profile, "change")
    return {
        content: {kind: find_window(curve) for kind, curve in kind_curves(change, profile.sites).items()}
        for content, change in changes.items()
    }


def ranking_of(profile: Profile) -> list[RankedKind]:
    """The profile's kinds from the least to the most change, over all content classes."""
    return rank_kinds(kind_curves(mean_over_contents(profile, "change"), profile.sites))


def find_window(
    change: NDArray[np.floating],
    *,
    tolerance: float = TOLERANCE,
    least_share: float = LEAST_SHARE,
    most_crossings: int = MOST_CROSSINGS,
    most_breaks: float = MOST_BREAKS,
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
    breaks = tuple(step + 1 for step in range(start, stop) if change[step + 1] > limit)
    is_broken = len(breaks) > max(1, most_breaks * (stop - start))
    if steps < 4 or (stop - start) < least_share * curve.size or crossings > most_crossings or is_broken:
        return StableWindow(shape="noisy", start=None, stop=None, floor=floor, limit=limit)
    is_high_left, is_high_right = start > 0, stop < curve.size
    shape: dict[tuple[bool, bool], Shape] = {
        (True, True): "u", (True, False): "left", (False, True): "right", (False, False): "flat"
    }  # fmt: skip
    return StableWindow(
        shape=shape[is_high_left, is_high_right],
        start=start + 1,
        stop=stop + 1,
        floor=floor,
        limit=limit,
        breaks=breaks,
    )


def rank_kinds(change: Mapping[str, NDArray[np.floating]]) -> list[RankedKind]:
    """The pyramid: kinds from the least to the most change, by the median of their curves, (steps,) each."""
    medians = {kind: float(np.median(curve[1:])) if len(curve) > 1 else 0.0 for kind, curve in change.items()}
    order = sorted(medians, key=medians.__getitem__)
    margins = [medians[next_kind] / medians[kind] if medians[kind] > 0 else None for kind, next_kind in pairwise(order)]
    return [
        RankedKind(kind=kind, change=medians[kind], margin=margin)
        for kind, margin in zip(order, [*margins, None], strict=False)
    ]


def _longest_run(is_stable: NDArray[np.bool_]) -> tuple[int, int]:
    padded = np.concatenate([[False], is_stable, [False]]).astype(int)
    starts, stops = np.flatnonzero(np.diff(padded) == 1), np.flatnonzero(np.diff(padded) == -1)
    if not len(starts):
        return 0, 0
    longest = int(np.argmax(stops - starts))
    return int(starts[longest]), int(stops[longest])
