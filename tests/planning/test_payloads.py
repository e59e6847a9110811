import numpy as np
import pytest

from pabtune.planning.masks import resolve
from pabtune.planning.payloads import Payload, gaps_of, lifetimes
from pabtune.planning.schedules import NoiseSchedule
from pabtune.planning.units import units_of
from pabtune.records.errors import PolicyError
from pabtune.records.policies import MadeFor, Policy
from pabtune.records.rules import Rule
from pabtune.records.sites import Site

SITE = Site(path="blocks.0.attn", kind="full", layer=0, block="blocks.0")
CALL = Site(path="", kind="transformer", layer=0)


def schedule(steps: int) -> NoiseSchedule:
    return NoiseSchedule(steps=steps, sigmas=tuple(1 - step / steps for step in range(steps)))


def test_extrapolations_are_exact_for_their_polynomials() -> None:
    levels = schedule(10).sigmas
    for kind, degree in (("hold", 0), ("linear", 1), ("quadratic", 2)):
        weights = Payload(kind).weights([0, 1, 4], 6, schedule(10))
        assert len(weights) == degree + 1
        values = [levels[step] ** degree for step in (0, 1, 4)][-len(weights) :]
        assert np.dot(weights, values) == pytest.approx(levels[6] ** degree)
        assert sum(weights) == pytest.approx(1)


def test_without_noise_levels_it_goes_over_steps_and_damping_shortens_it() -> None:
    plain = NoiseSchedule(steps=10)
    assert Payload("linear").weights([2, 4], 5, plain) == pytest.approx((-0.5, 1.5))
    assert Payload("linear", 0.5).weights([2, 4], 5, plain) == pytest.approx((-0.25, 1.25))
    assert Payload("linear", 0.0).weights([2, 4], 5, plain) == pytest.approx((0.0, 1.0))


def test_too_few_outputs_give_a_payload_of_lower_order() -> None:
    assert Payload("quadratic").weights([3], 4, schedule(8)) == (1.0,)
    scaled = Payload("scaled", factors=((),) * 4 + ((0.5, 0.25),))
    assert scaled.weights([0, 1, 3], 4, schedule(5)) == pytest.approx((-0.25, -0.25, 1.5))
    assert scaled.weights([1, 3], 4, schedule(5)) == pytest.approx((-0.5, 1.5))


def test_outputs_are_kept_exactly_as_long_as_they_serve() -> None:
    computes = [True, True, False, True, True, False, False, True]
    serves = [not each for each in computes]
    held = lifetimes(Payload("linear"), computes, serves)
    assert held.keeps == (True, True, False, True, True, False, False, False)
    assert held.held == (1, 2, 0, 1, 2, 2, 0, 0)
    assert lifetimes(Payload(), computes, serves).held == (0, 1, 0, 0, 1, 1, 0, 0)


def test_factors_keep_their_ratio_to_an_extrapolation_on_another_schedule() -> None:
    """A `scaled` payload with the factors of a line is that line on every schedule."""
    made_for = MadeFor(steps=10, sigmas=schedule(10).sigmas)
    listed = (0, 1, 2, 4, 6, 8, 9)
    factors = tuple(() if step in listed else (1.0 if step == 3 else 0.5,) for step in range(10))
    rule = Rule(kind="transformer", compute=listed, payload="scaled", factors=factors)
    carried = Payload.of("rule", rule, made_for, schedule(20))
    assert carried.order == 2
    line = Payload("linear")
    for history, step in (([3, 5], 6), ([9, 12], 13), ([9, 12], 14)):
        assert carried.weights(history, step, schedule(20)) == pytest.approx(line.weights(history, step, schedule(20)))
    policy = Policy(name="p", rules=(rule,), made_for=made_for)
    assert resolve(policy, [CALL], schedule(20)).payload(0).slopes
    with pytest.raises(PolicyError, match="search again with --steps 20"):
        Payload.of("rule", rule, MadeFor(steps=10), NoiseSchedule(steps=20))


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (Rule(kind="transformer", compute=(0, 2, 4, 6), payload="linear"), "made from 2 computed outputs, but only 1"),
        (Rule(kind="transformer", compute=(0, 1, 3, 5), payload="quadratic"), "compute at least 3 steps first"),
        (
            Rule(kind="transformer", compute=(0, 1, 3), payload="scaled", factors=((), (), (1.0,))),
            "`factors` are of 3 steps, but the run has 8",
        ),
        (Rule(kind="transformer", count=9, first=2, last=1), "9 steps are to compute, but the run has 8"),
    ],
)
def test_what_cannot_be_served_is_refused_before_the_run(rule, message) -> None:
    with pytest.raises(PolicyError, match=message):
        resolve(Policy(name="p", rules=(rule,)), [CALL], NoiseSchedule(steps=8))


def test_schedules_by_count_and_by_both_ends() -> None:
    def computed(steps: int, made_for: MadeFor | None = None, **rule) -> list[int]:
        policy = Policy(name="p", rules=(Rule(kind="transformer", **rule),), made_for=made_for or MadeFor())
        return np.flatnonzero(resolve(policy, [CALL], schedule(steps)).compute[0]).tolist()

    assert computed(12, range=3, first=2, last=2) == [0, 1, 4, 7, 10, 11]
    assert computed(11, count=6, first=2, last=1) == [0, 1, 3, 6, 8, 10]
    assert computed(10, count=4, first=2, last=2) == [0, 1, 8, 9]
    twice = computed(24, MadeFor(steps=12), count=6, first=2, last=2)
    assert len(twice) == 12
    assert twice[:4] == [0, 1, 2, 3]
    assert twice[-4:] == [20, 21, 22, 23]
    assert gaps_of([0, 1, 4], 6) == [(2, 4), (5, 6)]


def test_what_is_due_inside_a_skipped_call_computes_at_the_next() -> None:
    rules = (
        Rule(kind="transformer", compute=(0, 1, 4, 5, 7)),
        Rule(kind="full", range=2, window=(1, 8)),  # due at 2, 4, 6 by itself
    )
    mask = resolve(Policy(name="p", rules=rules), [SITE, CALL], NoiseSchedule(steps=8))
    assert np.flatnonzero(mask.compute[1]).tolist() == [0, 1, 4, 5, 7]
    assert np.flatnonzero(mask.compute[0]).tolist() == [0, 4, 7]
    held = [each.held for each in mask.lifetimes()]
    assert held[0] == (1, 0, 0, 0, 1, 0, 0, 0)  # served at 1 and at 5; nothing is served while the call is skipped
    assert held[1] == (0, 1, 1, 0, 0, 1, 0, 0)
    assert mask.called_steps == 5


def test_schedulers_that_repeat_a_timestep_are_extrapolated_from_the_last_of_each() -> None:
    """PNDM's warm-up has the same noise level several times; a line through two equal places has no slope."""
    repeated = NoiseSchedule(steps=6, sigmas=(0.9, 0.8, 0.8, 0.7, 0.7, 0.6))
    assert Payload("linear").weights([0, 1, 2], 3, repeated) == (0.0, 1.0)
    assert Payload("quadratic").weights([0, 1, 2], 3, repeated) == pytest.approx((-1.0, 0.0, 2.0))
    assert Payload("linear").weights([1, 3], 4, repeated) == pytest.approx((0.0, 1.0))
    made_for = MadeFor(steps=6, sigmas=repeated.sigmas)
    rule = Rule(kind="transformer", compute=(0, 1, 3, 5), payload="scaled", factors=((), (), (0.5,), (), (0.5,), ()))
    carried = Payload.of("rule", rule, made_for, NoiseSchedule(steps=4, sigmas=(0.9, 0.9, 0.8, 0.6)))
    assert carried.weights([0, 1], 2, NoiseSchedule(steps=4, sigmas=(0.9, 0.9, 0.8, 0.6))) == (0.0, 1.0)


def computed_steps(rules: tuple[Rule, ...], steps: int, made_for: MadeFor | None = None) -> list[list[int]]:
    """Computed steps of a site, and of each unit around it."""
    policy = Policy(name="p", rules=rules, made_for=made_for or MadeFor())
    mask = resolve(policy, (SITE, *units_of(policy, (SITE,))), schedule(steps))
    return [np.flatnonzero(row).tolist() for row in mask.compute]


def test_a_site_that_was_put_off_computes_until_it_has_the_outputs_that_its_payload_needs() -> None:
    """By its own row it has three before step 3, but in step 1 nothing is called: a quadratic became a line in silence."""
    skips_step_1 = Rule(kind="transformer", compute=(0, 2, 3, 4, 5, 6, 7))
    quadratic = Rule(kind="full", compute=(0, 1, 2, 4, 6), payload="quadratic")
    assert computed_steps((skips_step_1, quadratic), 8)[0] == [0, 2, 3, 4, 6]
    halves = Rule(kind="guidance", compute=(0, 3, 4, 7))
    site, guidance = computed_steps((halves, quadratic), 8)
    assert guidance == [0, 3, 4, 7]
    assert site == [0, 1, 2, 3, 4, 6, 7], "halves of outputs, in steps 1, 2 and 6, are not kept"


EVERY_THIRD = (0, 1, 2, *range(4, 50, 3))
SCALED = Rule(
    kind="full", compute=EVERY_THIRD, payload="scaled",
    factors=tuple(() if step in EVERY_THIRD else (0.5, 0.2) for step in range(50)),
)  # fmt: skip


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (Rule(kind="full", count=25, first=3, last=1, payload="quadratic"), [0, 1, 2, 5, 8, 11]),
        (Rule(kind="full", range=3, first=2, last=1, payload="linear"), [0, 1, 4, 7, 10, 11]),
        (Rule(kind="full", range=3, window=(3, 50), payload="quadratic"), [0, 1, 2, 3, 6, 9]),
        (Rule(kind="full", compute=(0, 1, 2, *range(5, 50, 3)), payload="linear"), [0, 1, 3, 6, 9]),
        (SCALED, [0, 1, 2, 3, 6, 9, 11]),  # the last of its 50 steps computes
    ],
)
def test_a_rule_that_is_carried_to_fewer_steps_computes_what_its_payload_needs_first(rule, expected) -> None:
    made_for = MadeFor(steps=50, sigmas=schedule(50).sigmas)
    assert computed_steps((rule,), 12, made_for)[0] == expected


def test_a_held_step_of_a_scaled_payload_is_no_computed_one_on_another_schedule() -> None:
    """After a change of transformer there is one output, which is held: its empty factors were taken for a computed step."""
    made_for = MadeFor(steps=10, sigmas=schedule(10).sigmas)
    factors = ((), (), (), (), (), (), (1 / 3,), (), (), ())
    rule = Rule(kind="transformer", compute=(0, 1, 2, 5, 7, 8, 9), payload="scaled", factors=factors)
    carried = Payload.of("rule", rule, made_for, schedule(20))
    line = Payload("linear")
    assert carried.weights([4, 10], 12, schedule(20)) == pytest.approx(line.weights([4, 10], 12, schedule(20)))
    assert carried.weights([2, 4], 6, schedule(20)) == pytest.approx((0.0, 1.0))


LEVELS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)


def test_factors_of_ranges_are_carried_as_those_of_the_same_list_of_steps() -> None:
    """A step counted as computed where it had no factors, whatever the range said."""
    made_for, factors = MadeFor(steps=10, sigmas=LEVELS), ((), (), *((0.5,),) * 8)
    moved = NoiseSchedule(steps=10, sigmas=tuple(level - 2e-4 for level in LEVELS))
    site, weights = Site(path="blocks.0.attn", kind="full", layer=0), []
    for rule in (
        Rule(kind="full", range=3, window=(2, 9), payload="scaled", factors=factors),
        Rule(kind="full", compute=(0, 1, 4, 7, 9), payload="scaled", factors=factors),
    ):
        mask = resolve(Policy(name="p", rules=(rule,), made_for=made_for), [site], moved)
        assert "".join("#" if each else "-" for each in mask.compute[0]) == "##--#--#-#"
        weights.append([mask.weights(0, history, step) for history, step in (([0, 1], 3), ([1, 4], 5), ([4, 7], 8))])
    assert weights[0] == weights[1]
    assert weights[0][2] == pytest.approx((-0.5, 1.5), abs=0.01)


@pytest.mark.parametrize(
    "rule",
    [
        Rule(kind="full", range=2, first=2, last=1, payload="scaled", factors=((), (0.5,), *((0.5,),) * 8)),
        Rule(kind="full", compute=(0, 2, 4), payload="scaled", factors=((), (0.5,), (), (0.5,), (), *((0.5,),) * 5)),
    ],
)
def test_factors_that_stand_at_odd_steps_end_in_no_traceback_elsewhere(rule) -> None:
    policy, site = (
        Policy(name="p", rules=(rule,), made_for=MadeFor(steps=10, sigmas=LEVELS)),
        Site(path="a", kind="full", layer=0),
    )
    other = NoiseSchedule(steps=5, sigmas=LEVELS[::2])
    if rule.compute is not None:
        with pytest.raises(PolicyError, match="compute at least 2 steps first"):
            resolve(policy, [site], other)
    else:
        assert resolve(policy, [site], other).compute[0].tolist() == [True, True, True, False, True]
