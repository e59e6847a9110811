"""What each kind of site did in each step of a run, as a line of text per kind: `step_pattern` of a run's summary.

Knows records of calls; knows nothing of masks, of what was planned, or of tensors.
"""

from collections.abc import Iterable, Mapping, Sequence

from pabtune.records.sites import Kind, Site
from pabtune.runtime.plans import CallRecord

COMPUTED, SERVED = 1, 2
"""What calls of a step did, added up as bits."""

SYMBOLS = ".#-+"
"""Symbol of each sum: no call, all computed, all broadcast, some of each."""


def line_of(calls: Iterable[tuple[int, int]], steps: int) -> str:
    """One symbol per step: `#` all calls computed, `-` all were broadcast, `+` some of each, `.` there was none.

    Args:
        calls: step and bits of each call.
        steps: number of denoising steps.
    """
    sums = [0] * steps
    for step, bits in calls:
        sums[step] |= bits
    return "".join(SYMBOLS[each] for each in sums)


def step_pattern(records: Sequence[CallRecord], sites: Sequence[Site], steps: int) -> Mapping[Kind, str]:
    """One symbol per step for each kind, of all transformers, layers, branches and denoising loops together (see `line_of`).

    A call that computed for one guidance branch alone counts as both. What lies inside of a call or block that was broadcast,
    was not called; neither were the steps that an aborted run did not come to.

    Args:
        records: of the calls of a run.
        sites: that the records' indices are of.
        steps: number of denoising steps.
    """
    kinds: dict[Kind, set[int]] = {}
    for index, site in enumerate(sites):
        kinds.setdefault(site.kind, set()).add(index)
    longest = max([steps, *(record.step + 1 for record in records)])
    return {
        kind: line_of(((record.step, _bits(record, indices)) for record in records), longest)
        for kind, indices in kinds.items()
    }


def _bits(record: CallRecord, indices: set[int]) -> int:
    """What the sites of one kind did in a call."""
    computed, served = record.computed or frozenset(), record.broadcast
    has_computed, has_served = not indices.isdisjoint(computed), not indices.isdisjoint(served)
    return COMPUTED * has_computed | SERVED * (has_served or (has_computed and record.is_halved))
