import math
from dataclasses import replace

import pytest

from pabtune.planning.costs.profiled import ProfiledCost, cost_of_profile
from pabtune.records.errors import PolicyError
from pabtune.records.interconnects import INTERCONNECTS
from pabtune.records.policies import Policy
from pabtune.records.profiles import Profile
from pabtune.records.rules import Rule
from tests.records.test_profiles import make_profile


def cost(profile: Profile, policy: Policy) -> ProfiledCost:
    return cost_of_profile(profile, policy, None, (1,), None, INTERCONNECTS["nvlink"])


def held(steps: int, **changes: object) -> Policy:
    """Both kinds, broadcast from step 1 on."""
    rules = tuple(Rule(kind=kind, range=9, window=(1, steps)) for kind in ("spatial", "mlp"))
    return replace(Policy(name="held", rules=rules), **changes)


def test_only_what_is_called_computes_broadcasts_and_saves() -> None:
    """Fault 27: the MLP is the second transformer's, which takes over in step 2 and computes there."""
    profile = make_profile(4)
    sites = (profile.sites[0], replace(profile.sites[1], transformer="transformer_2"))
    seconds = profile.arrays["seconds"].copy()
    seconds[0, 2:] = seconds[1, :2] = 0.0
    found = cost(replace(profile, sites=sites, arrays={**profile.arrays, "seconds": seconds}), held(4))
    assert found.computed_calls == found.broadcast_calls == {"spatial": 1, "mlp": 1}
    assert found.compute_fraction == pytest.approx(1 - (30 + 50) / (4 * 100))
    assert found.peak.stored_bytes == 1000


def test_the_peak_is_that_of_the_policys_store() -> None:
    profile = make_profile(4)
    for store, expected in (("exact", 1000 + 500), ("int8", 300 + 150)):
        assert cost(profile, held(4, store=store)).peak.stored_bytes == expected


def test_branches_in_calls_of_their_own_hold_less_than_both_at_once() -> None:
    """In step 1 spatial attention is served and the MLP is kept: of each branch in its own call, of the others one of both."""
    policy = Policy(name="p", rules=(Rule(kind="spatial", compute=(0, 2)), Rule(kind="mlp", compute=(0, 1))))
    profile = make_profile(3)
    for calls, expected in ((1, 1500), (2, (1500 + 1000) / 2)):
        peak = cost(replace(profile, call=replace(profile.call, per_step=calls)), policy).peak
        assert (peak.stored_bytes, peak.step) == (expected, 1)


def test_a_guidance_difference_is_as_large_as_the_output_of_one_branch() -> None:
    policy = Policy(name="p", rules=(Rule(kind="guidance", range=2, window=(1, 4)),))
    profile = make_profile(4)
    profile = replace(profile, call=replace(profile.call, samples=2))
    found = cost(profile, policy)
    assert found.peak.stored_bytes == math.prod(profile.call.shape) * 4
    assert found.compute_fraction == pytest.approx(1 - found.broadcast_calls["guidance"] / 2 / 4)
    with pytest.raises(PolicyError, match="was made without guidance"):
        cost(replace(profile, call=replace(profile.call, samples=1)), policy)


def test_whole_calls_hold_what_was_measured_else_as_much_as_they_take() -> None:
    """Profiles made before the outputs' sizes were measured keep the estimate."""
    policy, profile = Policy(name="p", rules=(Rule(kind="transformer", range=2, window=(1, 4)),)), make_profile(4)
    assert cost(profile, policy).peak.stored_bytes == 2 * math.prod(profile.call.shape) * 4
    measured = replace(profile, call=replace(profile.call, output_bytes=600, output_int8_bytes=200))
    for store, expected in (("exact", 600), ("int8", 200)):
        assert cost(measured, replace(policy, store=store)).peak.stored_bytes == expected
