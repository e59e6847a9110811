"""Bytes that a run holds for later steps, from the compute mask and the sizes of the sites' outputs."""

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pabtune.planning.masks import ComputeMask
from pabtune.records.errors import PolicyError
from pabtune.records.policies import Store
from pabtune.records.sites import WHOLE_CALLS

SITES_AHEAD = 2
"""Number of sites whose outputs are prefetched from the host."""

BYTES_PER_UNIT = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def held_bytes(
    mask: ComputeMask,
    site_bytes: Sequence[float],
    store: Store = "exact",
    calls: int = 1,
    plain_bytes: Sequence[float] | None = None,
) -> NDArray[np.float64]:
    """Bytes of outputs held on the device in each step, (steps,): those it broadcasts and those it keeps for the next step.

    With sequential CFG the peak is in the first or the last call of a step: the branch in its call holds both kinds of
    outputs, branches still to come hold what they will broadcast, and branches that are done hold what they kept. Where
    transformers alternate, the outputs of one are freed before the first call of the other.

    Args:
        mask: the compute mask; `where_called` for models whose transformers alternate.
        site_bytes: bytes of one output of each site as stored, for all branches, in the mask's order.
        store: how outputs are kept; with `host` the device holds a few at a time.
        calls: calls of the transformer in a step, with equally many branches each; 1 gives an upper bound for several.
            Guidance differences are taken to be held in all of them: one branch alone holds them.
        plain_bytes: the same before they are stored, for what is combined of several outputs before a call; None = as
            stored, or four times as much in 8 bits.
    """
    sizes = np.asarray(site_bytes, dtype=float)
    plain = np.asarray(plain_bytes, dtype=float) if plain_bytes is not None else sizes * (4 if store == "int8" else 1)
    is_combined = np.array(
        [site.kind not in WHOLE_CALLS and mask.payload(index).kind != "hold" for index, site in enumerate(mask.sites)],
        dtype=bool,
    )
    combined = np.where(mask.broadcasts & is_combined[:, None], plain[:, None], 0.0).sum(0) / calls
    if store == "host":
        broadcast_bytes = np.where(mask.broadcasts & ~is_combined[:, None], sizes[:, None], 0.0)
        return np.asarray(np.sort(broadcast_bytes, axis=0)[-(SITES_AHEAD + 1) :].sum(0) + combined)
    lives = mask.lifetimes()
    after = np.array([each.held for each in lives], dtype=float).reshape(mask.compute.shape)
    keeps = np.array([each.keeps for each in lives], dtype=float).reshape(mask.compute.shape)
    before = np.zeros_like(after)
    before[:, 1:] = after[:, :-1]
    # While a call goes on, what it computes is added to what it still serves from; what it does not need later was freed.
    during = np.where(mask.broadcasts, np.maximum(before, after), after)
    is_difference = np.array([site.kind == "guidance" for site in mask.sites], dtype=bool)
    shared = np.where(is_difference, 0.0, sizes)
    in_call, sizes_before, sizes_behind = (shared @ counts for counts in (np.maximum(during, keeps), before, after))
    differences = (sizes - shared) @ np.maximum(during, keeps)
    return np.asarray((in_call + (calls - 1) * np.maximum(sizes_before, sizes_behind)) / calls + differences + combined)


def parse_bytes(text: str) -> int:
    """Number of bytes of a text such as `8GiB`, `500 MB` or `123456`.

    Raises:
        PolicyError: the text is not an amount of memory.
    """
    match = re.fullmatch(r"\s*([0-9]{1,20}(?:\.[0-9]{1,20})?)\s*([a-zA-Z]*)\s*", text)
    if match is None or match[2].upper() not in BYTES_PER_UNIT:
        raise PolicyError(f"{text!r} is not an amount of memory; write for example 8GiB or 500MB")
    return int(float(match[1]) * BYTES_PER_UNIT[match[2].upper()])


def format_bytes(count: float) -> str:
    """A readable amount of memory, for example `1.50 GiB`."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} B" if unit == "B" else f"{count:.2f} {unit}"
        count /= 1024
    return f"{count:.2f} GiB"
