"""Ranking schedules from a profile, against runs of a small system whose errors can be computed."""

from dataclasses import replace

import numpy as np
import pytest

from pabtune.planning.presets import find_policy
from pabtune.planning.ranking import rank_schedules, surrogate_of_profile
from pabtune.records.errors import PolicyError, ProfileError
from pabtune.records.policies import MadeFor, Policy
from pabtune.records.profiles import NO_SENSITIVITY, Profile
from pabtune.records.rules import Rule
from tests.planning.test_surrogate import PROMPTS, STEPS, System
from tests.records.test_profiles import make_profile


def profile_of(system: System) -> Profile:
    """A profile that measured the system; of the second prompt a gain at step 3."""
    surrogate, profile = system.surrogate(), make_profile(STEPS)
    gains = np.full((PROMPTS, STEPS), np.nan)
    gains[1, 3] = surrogate.gains[1, 3]
    arrays = {"products": surrogate.products, "keeps": surrogate.keeps, "rates": surrogate.rates, "gains": gains}
    return replace(
        profile, contents=("fast", "still"), prompts={"fast": 1, "still": 2}, seeds=(0, 1, 2),
        arrays={
            **{name: np.repeat(array, 2, axis=0) if array.shape[0] == 1 else array for name, array in profile.arrays.items()},
            **arrays,
        },
    )  # fmt: skip


def of_steps(*computed: int, **payload) -> Policy:
    return Policy(name="p", rules=(Rule(kind="transformer", compute=computed, **payload),))


def errors_of(system: System, computed, factors) -> np.ndarray:
    return np.square(system.run(computed, factors)[0][-1] - system.latents[-1]).mean(axis=1)


def test_policies_have_the_errors_of_their_runs() -> None:
    """Without a response of the network all gains are 1, and the surrogate is exact."""
    system, computed = System(0.0), (0, 1, 3, 6)
    held = tuple(() if step in computed else (0.0,) for step in range(STEPS))
    scaled = tuple(() if step in computed else (0.5,) for step in range(STEPS))
    profile = profile_of(system)
    policies = [
        of_steps(*computed),
        of_steps(*computed, payload="scaled", factors=scaled),
        find_policy("every:2:linear"),
        Policy(name="none"),
    ]
    ranked = rank_schedules(profile, policies)
    assert [each.objective for each in ranked] == sorted(each.objective for each in ranked)
    by_index = {each.index: each for each in ranked}
    assert ranked[0].index == 3
    assert ranked[0].computed == tuple(range(STEPS))
    for index, factors in enumerate((held, scaled)):
        expected = errors_of(system, computed, factors)
        assert by_index[index].computed == computed
        assert by_index[index].error == pytest.approx(np.exp(np.log(expected).mean()))
        assert by_index[index].worst_error == pytest.approx(expected.max())
    # Noise levels are even: step 3 goes on by the change from 1 to 2, step 5 by half of that from 2 to 4.
    linear = by_index[2].computed
    assert linear == (0, 1, 2, 4, 6, 7)
    expected = errors_of(system, linear, ((), (), (), (1.0,), (), (0.5,), (), ()))
    assert by_index[2].worst_error == pytest.approx(expected.max(), rel=1e-3)


def test_lists_of_steps_are_ranked_with_the_factors_that_suit_them() -> None:
    profile = profile_of(System(-2.0))
    surrogate = surrogate_of_profile(profile)
    ranked = rank_schedules(profile, [(0, 1, 2, 7), of_steps(0, 1, 3, 6), (0, 1, 3, 6)])
    by_index = {each.index: each for each in ranked}
    for index in (0, 2):
        assert by_index[index].objective == pytest.approx(surrogate.objective(by_index[index].computed))
    assert by_index[2].computed == by_index[1].computed
    assert by_index[2].objective < by_index[1].objective


def test_prompts_without_a_measured_gain_take_those_of_others() -> None:
    profile = profile_of(System(-2.0))
    gains = surrogate_of_profile(profile).gains
    measured = profile.arrays["gains"][1, 3]
    assert gains[:, 3] == pytest.approx([measured] * 3)
    assert gains[:, -1] == pytest.approx([1.0] * 3)
    two = profile.arrays["gains"].copy()
    two[2, 3] = 0.5 * measured
    gains = surrogate_of_profile(replace(profile, arrays={**profile.arrays, "gains": two})).gains
    assert gains[:, 3] == pytest.approx([measured, measured, 0.5 * measured])
    none = np.full_like(two, np.nan)
    assert (surrogate_of_profile(replace(profile, arrays={**profile.arrays, "gains": none})).gains == 1).all()


def test_a_content_class_is_ranked_by_its_own_prompts() -> None:
    profile = profile_of(System(-2.0))
    products = profile.arrays["products"]
    assert (surrogate_of_profile(profile, "fast").products == products[:1]).all()
    assert (surrogate_of_profile(profile, "still").products == products[1:]).all()
    with pytest.raises(ProfileError, match="has no content 'wild'; it has: fast, still"):
        rank_schedules(profile, [(0, 1)], "wild")
    variants = replace(of_steps(0, 2), variants={"fast": of_steps(0, 5).rules})
    assert rank_schedules(profile, [variants], "fast")[0].computed == (0, 5)


def test_a_transformer_that_takes_over_computes() -> None:
    profile = profile_of(System(-0.5))
    sites = (profile.sites[0], replace(profile.sites[1], transformer="transformer_2"))
    seconds = profile.arrays["seconds"].copy()
    seconds[0, 4:] = seconds[1, :4] = 0.0
    profile = replace(profile, sites=sites, arrays={**profile.arrays, "seconds": seconds})
    assert surrogate_of_profile(profile).takeovers == {4}
    policy, steps = rank_schedules(profile, [of_steps(0, 1, 6), (0, 1, 6)])
    assert policy.computed == steps.computed == (0, 1, 4, 6)


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ((1, 2), "start with 0 and rise to at most 7"),
        ((0, 2, 1), "start with 0 and rise"),
        ((0, 8), "rise to at most 7, but are"),
        ((), "start with 0"),
        (find_policy("pab246"), "broadcasts cross, spatial, temporal; only whole calls"),
        (find_policy("steps:5"), "is a run of 5 steps, and profile 'made-up' is of 8"),
        (
            replace(of_steps(0, 1), made_for=MadeFor(model="x", fingerprint="sha256:" + "1" * 64)),
            "was made for another model",
        ),
    ],
)
def test_what_cannot_be_ranked_says_why(schedule, message) -> None:
    with pytest.raises(PolicyError, match=message):
        rank_schedules(profile_of(System(0.0)), [schedule])


def test_profiles_that_did_not_measure_it_say_why() -> None:
    profile = make_profile()
    with pytest.raises(ProfileError, match="made before what is needed was measured; profile again"):
        rank_schedules(profile, [(0, 1)])
    refused = replace(profile, provenance={NO_SENSITIVITY: "XPipeline has no callback_on_step_end"})
    with pytest.raises(ProfileError, match="cannot rank schedules: XPipeline has no callback_on_step_end"):
        rank_schedules(refused, [(0, 1)])
