from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pabtune.planning.dial import FIRST_RATIO, between
from pabtune.planning.masks import resolve
from pabtune.planning.schedules import NoiseSchedule
from pabtune.records.errors import PolicyError
from pabtune.records.policies import MadeFor, Policy
from pabtune.records.rules import Rule
from pabtune.records.sites import Site

STEPS = 12
MADE_FOR = MadeFor(
    steps=STEPS, sigmas=tuple(1 - step / STEPS for step in range(STEPS)), fingerprint="sha256:" + "1" * 64
)
FRONT = sorted((Path(__file__).parent.parent.parent / "policies" / "shapes-30steps-front").glob("*.json"))


def policy_of(*computed: int, ratio: float = 1.0) -> Policy:
    """A schedule whose factors are so many times the line through the last two outputs, on even noise levels."""
    factors = []
    for step in range(STEPS):
        history = [each for each in computed if each < step]
        is_broadcast = step not in computed and len(history) > 1
        factors.append((ratio * (step - history[-1]) / (history[-1] - history[-2]),) if is_broadcast else ())
    rule = Rule(kind="transformer", compute=computed, payload="scaled", factors=tuple(factors))
    return Policy(name=f"{len(computed)}", rules=(rule,), made_for=MADE_FOR)


def test_the_ends_of_the_dial_are_the_two_policies() -> None:
    few, many = policy_of(0, 1, 4, 8, 11), policy_of(0, 1, 2, 3, 5, 6, 8, 10, 11)
    for end in (few, many):
        found = between(many, few, len(end.rules[0].compute or ()))
        assert found.rules[0].compute == end.rules[0].compute
        for factors, expected in zip(found.rules[0].factors, end.rules[0].factors, strict=True):
            assert factors == pytest.approx(expected)


def test_between_them_steps_are_moved_and_factors_keep_their_ratio() -> None:
    found = between(policy_of(0, 1, 4, 8, 11, ratio=0.4), policy_of(0, 1, 2, 3, 5, 6, 8, 10, 11, ratio=0.8), 7)
    (rule,) = found.rules
    # Quantiles of the few steps: 0, .67, 2, 4, 6.67, 9, 11; of the many: 0, 1.33, 2.67, 5, 6.67, 9.33, 11; each in the middle.
    assert rule.compute == (0, 1, 2, 4, 7, 9, 11)
    assert rule.factors[3] == pytest.approx(((0.4 + 0.8) / 2 * 1 / 1,))
    assert rule.factors[8] == pytest.approx(((0.4 + 0.8) / 2 * 1 / 3,))
    assert all(bool(factors) != (step in rule.compute) for step, factors in enumerate(rule.factors) if step > 1)
    assert (found.evidence, found.made_for) == ({}, MADE_FOR)


def test_wild_ratios_are_bounded() -> None:
    found = between(policy_of(0, 1, 4, 8, 11, ratio=9.0), policy_of(0, 1, 2, 3, 5, 6, 8, 10, 11, ratio=9.0), 7)
    assert found.rules[0].factors[3] == pytest.approx((FIRST_RATIO[1],))


def test_every_count_between_the_ends_of_the_shipped_front_is_a_policy() -> None:
    policies = sorted((Policy.load(path) for path in FRONT), key=lambda each: len(each.rules[0].compute or ()))
    few, many = policies[0], policies[-1]
    schedule = NoiseSchedule(steps=30, sigmas=few.made_for.sigmas)
    for count in range(len(few.rules[0].compute or ()), len(many.rules[0].compute or ()) + 1):
        found = between(few, many, count)
        mask = resolve(found, [Site(transformer="transformer", path="", kind="transformer", layer=0)], schedule)
        assert int(mask.compute.sum()) == count
        assert np.isfinite([factor for factors in found.rules[0].factors for factor in factors]).all()


@pytest.mark.parametrize(
    ("first", "second", "count", "message"),
    [
        (policy_of(0, 1, 4), policy_of(0, 1, 2, 4, 8), 6, "6 computed steps are not between the 3 of '3' and the 5 of '5'"),
        (policy_of(0, 1, 4), replace(policy_of(0, 1, 2, 4, 8), made_for=MadeFor(steps=30)), 4, "different models or"),
        (policy_of(0, 1, 4), Policy(name="pab", rules=(Rule(kind="spatial", range=2, window=(1, 5)),)), 4, "'pab' is no"),
        (policy_of(0, 1, 4), Policy(name="none"), 4, "'none' is no schedule of whole calls"),
    ],
)  # fmt: skip
def test_what_has_no_between_is_refused(first, second, count, message) -> None:
    with pytest.raises(PolicyError, match=message):
        between(first, second, count)


def with_factors(policy: Policy, *factors: float) -> Policy:
    """The policy with the same factors in every broadcast step."""
    (rule,) = policy.rules
    return replace(policy, rules=(replace(rule, factors=tuple(factors if each else () for each in rule.factors)),))


def test_policies_with_different_numbers_of_factors_are_padded_with_none() -> None:
    """The first factor stood for the second one too, beyond that one's bounds."""
    few, many = policy_of(0, 1, 4, 8, 11), policy_of(0, 1, 2, 3, 5, 6, 8, 10, 11)
    one = between(with_factors(few, 0.8), with_factors(many, 0.8, -0.1), 7).rules[0].factors
    two = between(with_factors(few, 0.8, 0.0), with_factors(many, 0.8, -0.1), 7).rules[0].factors
    assert one == two
    assert all(each[1] <= 0 <= each[0] for each in one if len(each) > 1)
    three = between(with_factors(few, 0.8, 0.0, 0.0), with_factors(many, 0.8, -0.1), 7).rules[0].factors
    assert [each[:2] for each in three] == list(two)


def test_factors_that_nothing_takes_are_left_out() -> None:
    """Step 2 has one change before it, and a second factor: an IndexError."""
    few, many = policy_of(0, 1, 4, 8, 11), policy_of(0, 1, 3, 4, 5, 6, 8, 10, 11)
    found = between(with_factors(few, 0.8, -0.1), with_factors(many, 0.8, -0.1), 7)
    assert all(len(each) <= 2 for each in found.rules[0].factors)


def test_prompts_that_the_policies_were_searched_with_are_remembered() -> None:
    """`evaluate --budget` took them for unseen ones."""
    many = replace(policy_of(0, 1, 2, 3, 5, 6, 8, 10, 11), provenance={"prompts": "sha256:a", "judged_on": "sha256:b"})
    found = between(policy_of(0, 1, 4, 8, 11), many, 7).provenance
    assert (found["prompts"], "judged_on" in found) == ("sha256:a", False)


def test_noise_levels_that_are_repeated_divide_nothing() -> None:
    """Schedulers with repeated timesteps: a change over no distance cannot be extended, and ended in a ZeroDivisionError."""
    levels = (1.0, 0.9, 0.9, 0.8, 0.7, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
    ends = [
        replace(policy_of(*computed), made_for=replace(MADE_FOR, sigmas=levels))
        for computed in ((0, 1, 2, 8, 11), (0, 1, 2, 3, 4, 5, 8, 10, 11))
    ]
    for count in range(5, 10):
        (rule,) = between(*ends, count).rules
        assert np.isfinite([factor for factors in rule.factors for factor in factors]).all()
