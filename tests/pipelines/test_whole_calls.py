"""Whole calls of the transformer that are broadcast, on real classes, against doing it by hand."""

import numpy as np
import pytest

import pabtune
from pabtune.records.policies import Policy
from pabtune.records.rules import Rule
from pabtune.testing.oracle import calls_by_hand
from tests.pipelines.cases import CASES, COUNTED, abort, cases, policy, run

FAST = ("wan-2.1", "cogvideox-ddim", "open-sora-1.2")
SIMPLE = [
    name
    for name in COUNTED
    if {transformer for transformer, _ in CASES[name].branches} == {"transformer"}
    and name not in ("hunyuan-framepack", "helios", "skyreels-v2-forcing-long")
]
"""Cases with one transformer and one denoising loop."""

pytestmark = pytest.mark.filterwarnings("ignore")


def every_second(name: str, **payload) -> Policy:
    """The first two steps, then every second one."""
    steps = CASES[name].call["num_inference_steps"]
    computed = tuple(step for step in range(steps) if step < 2 or step % 2)
    return Policy(name="whole calls", rules=(Rule(kind="transformer", compute=computed, **payload),))


@pytest.mark.parametrize("name", cases(FAST, SIMPLE))
def test_holding_equals_holding_by_hand(name, load) -> None:
    pipeline, held = load(name), every_second(name)
    plain = run(pipeline, name)
    with pabtune.broadcast(pipeline, held) as active:
        fast = run(pipeline, name)
        assert active.stored_bytes == 0
    assert (fast != plain).any()
    assert (run(pipeline, name) == plain).all()
    computed = held.rules[0].compute
    calls_per_step = len({branch for _, branch in CASES[name].branches})
    steps = active.mask.steps
    by_step = {step: (1.0,) for step in range(steps)}
    with calls_by_hand(pipeline, computed, by_step, calls_per_step) as steps_computed:
        assert (run(pipeline, name) == fast).all()
    kinds = active.summary()
    assert kinds["computed_calls"]["transformer"] == len(steps_computed)
    assert kinds["broadcast_calls"] == {"transformer": (steps - len(set(steps_computed))) * calls_per_step}


@pytest.mark.parametrize("name", cases(FAST[:1], FAST))
def test_payloads_equal_their_formulas(name, load) -> None:
    pipeline, steps = load(name), CASES[name].call["num_inference_steps"]
    calls_per_step = len({branch for _, branch in CASES[name].branches})
    factors = tuple((0.75, -0.25) if step >= 3 and step % 2 == 0 else () for step in range(steps))
    listed = tuple(step for step in range(steps) if not factors[step])
    rules = {
        "linear": Rule(kind="transformer", compute=listed, payload="linear", damping=0.5),
        "scaled": Rule(kind="transformer", compute=listed, payload="scaled", factors=factors),
    }
    for payload, rule in rules.items():
        with pabtune.broadcast(pipeline, Policy(name=payload, rules=(rule,))) as active:
            fast = run(pipeline, name)
        levels = active.mask.schedule.sigmas
        weights = {}
        for step in set(range(steps)) - set(listed):
            past = [each for each in listed if each < step]
            if payload == "linear":
                reach = 0.5 * (levels[step] - levels[past[-1]]) / (levels[past[-1]] - levels[past[-2]])
                weights[step] = (-reach, 1 + reach)
            else:
                weights[step] = (0.25, -0.75 - 0.25, 1.75)
        with calls_by_hand(pipeline, listed, weights, calls_per_step):
            by_hand = run(pipeline, name)
        assert np.abs(by_hand - fast).max() <= 1e-5 * max(1.0, np.abs(fast).max())
        assert (by_hand != run(pipeline, name)).any()


@pytest.mark.parametrize("name", cases(("wan-2.1",), [name for name in CASES if name not in SIMPLE] + ["wan-2.1"]))
def test_it_runs_frees_and_restores_everywhere(name, load) -> None:
    """Change of transformer, several loops, asynchronous frames: runs are alike, and leave nothing behind."""
    pipeline = load(name)
    plain = run(pipeline, name)
    with pabtune.broadcast(pipeline, every_second(name, payload="linear")) as active:
        first = run(pipeline, name)
        assert np.isfinite(first).all()
        assert (run(pipeline, name) == first).all()
        assert active.stored_bytes == 0
    assert (run(pipeline, name) == plain).all()


@pytest.mark.parametrize("name", ["wan-2.1"])
def test_an_aborted_run_leaves_nothing(name, load) -> None:
    pipeline = load(name)
    with pabtune.broadcast(pipeline, every_second(name)) as active:
        first = run(pipeline, name)
        abort(pipeline, name, at_call=2)
        assert active.stored_bytes == 0
        assert (run(pipeline, name) == first).all()


@pytest.mark.parametrize("name", ["wan-2.1", "open-sora-1.2"])
def test_a_whole_call_and_what_is_inside(name, load) -> None:
    """Sites that are due while the call is broadcast compute at the next call; a mask says so before the run."""
    pipeline, inner = load(name), policy(name)
    mixed = Policy(name="mixed", rules=(*every_second(name).rules, *inner.rules))
    with pabtune.broadcast(pipeline, mixed) as active:
        fast = run(pipeline, name)
        assert (run(pipeline, name) == fast).all()
    mask, happens = active.mask, {record.step for record in active.records if record.computed is not None}
    skipped = ~mask.compute[[site.kind for site in mask.sites].index("transformer")]
    assert {step for step in range(mask.steps) if not skipped[step]} == happens
    inside = [index for index, site in enumerate(mask.sites) if site.kind != "transformer"]
    assert not (mask.compute[inside] & skipped & (mask.compute[inside].all(axis=1)[:, None] == 0)).any()
    for record in active.records:
        if record.computed is not None:
            expected = {index for index in range(len(mask.sites)) if mask.compute[index, record.step]}
            assert record.computed == expected


def test_a_run_of_other_steps_than_the_policy_asks_for_is_refused(load) -> None:
    pipeline = load("wan-2.1")
    with (
        pabtune.broadcast(pipeline, Policy(name="steps:3", steps=3)),
        pytest.raises(pabtune.PabtuneError, match="num_inference_steps=3"),
    ):
        run(pipeline, "wan-2.1")
