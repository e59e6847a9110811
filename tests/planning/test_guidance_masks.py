"""The rows of a guidance difference, and of what is inside the calls that it halves."""

import numpy as np
import pytest

from pabtune.planning.costs.compute import compute_fraction
from pabtune.planning.costs.memory import held_bytes
from pabtune.planning.masks import resolve
from pabtune.planning.schedules import NoiseSchedule
from pabtune.planning.units import units_of
from pabtune.records.policies import Policy
from pabtune.records.rules import Rule
from pabtune.records.sites import Site

SITES = (Site(path="blocks.0.attn", kind="spatial", layer=0, block="blocks.0"),)


def mask_of(*rules: Rule):
    policy = Policy(name="guidance", rules=rules)
    sites = (*SITES, *units_of(policy, SITES))
    assert len({site.name for site in sites}) == len(sites)
    return resolve(policy, sites, NoiseSchedule(steps=6))


def test_what_is_due_in_half_a_call_computes_there_and_stays_due() -> None:
    mask = mask_of(Rule(kind="guidance", compute=(0, 1, 4)), Rule(kind="spatial", compute=(0, 3)))
    assert mask.compute[0].tolist() == [True, False, False, True, True, False]
    # In step 3 half of the output computes, which is not kept; that of step 4 is.
    assert mask.lifetimes()[0].keeps == (True, False, False, False, True, False)


def test_a_whole_call_that_is_skipped_puts_the_difference_off() -> None:
    mask = mask_of(Rule(kind="transformer", compute=(0, 1, 2, 4, 5)), Rule(kind="guidance", compute=(0, 3)))
    guidance = mask.compute[[site.kind for site in mask.sites].index("guidance")]
    assert guidance.tolist() == [True, False, False, False, True, False]
    assert mask.halved[0].tolist() == [False, True, True, False, False, True]


def test_half_a_call_saves_half_and_its_sites_half_of_theirs() -> None:
    mask = mask_of(Rule(kind="guidance", compute=(0, 1, 4)), Rule(kind="spatial", compute=(0, 3)))
    halved, broadcast = 3, np.array([1.0, 0.5, 0.5])  # site: step 1 in full, steps 2 and 5 in half
    expected = 1 - (halved * 50 + broadcast.sum() * 40) / 600
    assert compute_fraction(mask, [40], 100) == pytest.approx(expected)


def test_of_four_branches_one_is_saved() -> None:
    mask = mask_of(Rule(kind="guidance", compute=(0, 1, 4)))
    assert compute_fraction(mask, [40], 100, branches=4) == pytest.approx(1 - 3 * 25 / 600)


def test_a_difference_is_held_by_one_of_the_calls() -> None:
    mask = mask_of(Rule(kind="guidance", compute=(0, 1, 4)))
    for calls in (1, 2):
        assert held_bytes(mask, [100, 8], calls=calls).tolist() == [0, 8, 8, 8, 8, 8]
