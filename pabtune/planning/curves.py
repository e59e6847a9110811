"""Curves over the denoising steps, from the arrays of a profile: means over sites of a kind, branches and content classes.

Axes as in `records/profiles.py`: c content classes, b branches, s sites, n steps. NaN stands where nothing can be compared.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pabtune.records.profiles import Profile
from pabtune.records.sites import Site

ALL_CONTENTS = "all"
"""Name of all content classes taken together, beside the name of each."""


def mean_over_contents(profile: Profile, measure: str, content: str | None = None) -> NDArray[np.floating]:
    """A measure averaged over branches and content classes: (sites, steps), or (sites, steps, steps) of `distance`.

    Args:
        profile: any.
        measure: `mse`, `change` or `distance`.
        content: one content class alone; None = all.
    """
    rows = slice(None) if content is None else [profile.contents.index(content)]
    return mean_of_known(profile.arrays[measure][rows], (0, 1))


def kind_curves(values_sn: NDArray[np.floating], sites: Sequence[Site]) -> dict[str, NDArray[np.floating]]:
    """The mean curve of each kind, (steps,), from one curve per site, (sites, steps).

    Where no site of a kind can be compared, everything may have changed: the largest value of the curve stands there.
    """
    curves: dict[str, NDArray[np.floating]] = {}
    for kind in dict.fromkeys(site.kind for site in sites):
        curve = mean_of_known(values_sn[rows_of(kind, sites)], 0)
        curves[kind] = np.where(np.isnan(curve), np.max(curve, initial=0.0, where=~np.isnan(curve)), curve)
    return curves


def rows_of(kind: str, sites: Sequence[Site]) -> list[int]:
    """Indices of the sites of a kind."""
    return [index for index, site in enumerate(sites) if site.kind == kind]


def mean_of_known(values: NDArray[np.floating], axis: int | tuple[int, ...]) -> NDArray[np.floating]:
    """The mean of the values that are not NaN; NaN where all are."""
    is_known = ~np.isnan(values)
    count = is_known.sum(axis)
    total = np.where(is_known, values, 0.0).sum(axis)
    return np.asarray(np.divide(total, count, out=np.full(np.shape(total), np.nan), where=count > 0))
