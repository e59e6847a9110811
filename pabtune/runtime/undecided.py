"""The first steps of a run whose content class they tell: all classes' sites compute, and what any class will need is kept.

What the class that is chosen goes on with is then what it would have had from the start.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np

from pabtune.planning.masks import ComputeMask
from pabtune.records.errors import PolicyError
from pabtune.records.first_steps import FirstSteps
from pabtune.records.sites import Site
from pabtune.runtime.plans import Branch, CallRecord, Plan


def undecided_plan(
    policy: str, rule: FirstSteps, masks: Mapping[str | None, ComputeMask], sites: tuple[Site, ...]
) -> Plan:
    """The plan in which every site computes and keeps what any content class holds.

    Args:
        policy: name of the policy, for messages.
        rule: tells the class.
        masks: of each class.
        sites: of all classes.

    Raises:
        PolicyError: under the rules of a class something is broadcast in the steps that tell the class.
    """
    for content, mask in masks.items():
        early = ~mask.compute[:, : rule.steps].all(axis=0)
        if early.any():
            what = "its general rules broadcast" if content is None else f"its variant {content} broadcasts"
            raise PolicyError(
                f"policy {policy!r}: {what} in step {int(early.argmax())} of this run, but the first {rule.steps} steps tell "
                "the content class and have to compute; name the class"
            )
    places = {site: index for index, site in enumerate(sites)}
    steps = next(iter(masks.values())).steps
    held = np.zeros((steps, len(sites)), dtype=int)
    for mask in masks.values():
        own = [places[site] for site in mask.sites]
        held[:, own] = np.maximum(held[:, own], np.array(Plan.of(mask).held))
    compute = np.ones((len(sites), steps), dtype=bool)
    schedule = next(iter(masks.values())).schedule
    whole = Plan.of(ComputeMask(sites=sites, compute=compute, schedule=schedule))
    return replace(whole, held=tuple(map(tuple, held.tolist())))


def move_branches(branches: Iterable[Branch], before: tuple[Site, ...], after: tuple[Site, ...]) -> None:
    """Renumbers what branches hold and count, from one list of sites to another; what is of no site of it is freed."""
    places = _places(before, after)
    for branch in branches:
        branch.stored = {places[index]: kept for index, kept in branch.stored.items() if index in places}
        for name in ("computed", "broadcast"):
            counts: Counter[int] = getattr(branch, name)
            setattr(branch, name, Counter({places[index]: count for index, count in counts.items() if index in places}))


def move_records(records: Iterable[CallRecord], before: tuple[Site, ...], after: tuple[Site, ...]) -> list[CallRecord]:
    """The records of calls with their sites renumbered."""
    places = _places(before, after)

    def moved(indices: frozenset[int]) -> frozenset[int]:
        return frozenset(places[index] for index in indices if index in places)

    return [
        replace(each, computed=None if each.computed is None else moved(each.computed), broadcast=moved(each.broadcast))
        for each in records
    ]


def _places(before: tuple[Site, ...], after: tuple[Site, ...]) -> dict[int, int]:
    new = {site: index for index, site in enumerate(after)}
    return {index: new[site] for index, site in enumerate(before) if site in new}
