"""Guidance branches in calls of their own: the unconditional call is skipped, against doing it by hand."""

from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import FlowMatchHeunDiscreteScheduler

import pabtune
from pabtune.catalog import CATALOG, find_card
from pabtune.planning.masks import resolve
from pabtune.planning.schedules import NoiseSchedule
from pabtune.records.errors import PabtuneWarning, PolicyError
from pabtune.records.policies import Policy
from pabtune.records.prompts import Prompt
from pabtune.records.rules import Rule
from pabtune.runtime.targets import Target
from pabtune.testing.oracle import broadcast_by_hand
from tests.conftest import draw
from tests.pipelines.cases import CASES, COUNTED, abort, cases, run, transformers_of

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "error::pabtune.records.errors.PabtuneWarning")

FAST = ("wan-2.1", "wan-2.2", "kandinsky-5")
SEQUENTIAL = [
    name
    for name in COUNTED
    if len(CASES[name].branches) == 2 * len({transformer for transformer, _ in CASES[name].branches})
]


def steps_of(name: str) -> int:
    return CASES[name].call["num_inference_steps"]


def guidance(name: str, **payload) -> Policy:
    return Policy(name="guidance", rules=(Rule(kind="guidance", range=2, window=(2, steps_of(name)), **payload),))


def mixture(name: str) -> Policy:
    """Whole calls, the guidance difference and the first kind of the model, with ranges that meet in every way."""
    steps, kind = steps_of(name), next(iter(CASES[name].sites))
    skipped = Rule(kind="transformer", compute=tuple(step for step in range(steps) if step != 3))
    inner = Rule(kind=kind, range=2, window=(1, steps))
    return Policy(name="mixture", rules=(skipped, Rule(kind="guidance", range=3, window=(1, steps)), inner))


def mask_of(pipeline, policy: Policy):
    """After a run, of the steps that its scheduler made."""
    steps = len(pipeline.scheduler.timesteps)
    return resolve(policy, Target.of(pipeline).under(policy).sites, NoiseSchedule(steps=steps))


@contextmanager
def calls_of(pipeline):
    """The calls of the transformers that happen, in order."""
    calls: list[object] = []
    handles = [each.register_forward_pre_hook(lambda *_: calls.append(1)) for each in transformers_of(pipeline)]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("policy", [guidance, mixture])
@pytest.mark.parametrize("name", cases(FAST, SEQUENTIAL))
def test_it_equals_broadcasting_by_hand(name, policy, load) -> None:
    pipeline = load(name)
    with calls_of(pipeline) as plain_calls:
        plain = run(pipeline, name)
    mask = mask_of(pipeline, policy(name))
    with broadcast_by_hand(pipeline, mask, 2, shares_call=False):
        expected = run(pipeline, name)
    with pabtune.broadcast(pipeline, policy(name)) as active, calls_of(pipeline) as calls:
        fast = run(pipeline, name)
        assert active.stored_bytes == 0
    assert (fast == expected).all()
    assert (fast != plain).any()
    skipped = [record for record in active.records if record.computed is None]
    assert len(calls) + len(skipped) == len(plain_calls) == len(active.records)
    assert not any(record.is_halved for record in active.records)
    broadcast = [record for record in skipped if policy is guidance or record.step != 3]
    assert active.summary()["broadcast_calls"]["guidance"] == len(broadcast) > 0
    assert (run(pipeline, name) == plain).all()


def test_schedulers_of_second_order(load) -> None:
    """Each stage is a step of its own."""
    pipeline = load("wan-2.1")
    pipeline.scheduler = FlowMatchHeunDiscreteScheduler()
    plain, policy = run(pipeline, "wan-2.1"), mixture("wan-2.1")
    mask = mask_of(pipeline, policy)
    assert mask.steps == 2 * steps_of("wan-2.1") - 1
    with broadcast_by_hand(pipeline, mask, 2, shares_call=False):
        expected = run(pipeline, "wan-2.1")
    with pabtune.broadcast(pipeline, policy):
        assert (run(pipeline, "wan-2.1") == expected).all()
    assert (expected != plain).any()


@pytest.mark.parametrize("payload", ["linear", "quadratic", "scaled"])
@pytest.mark.parametrize("name", cases(("wan-2.1",), ("wan-2.1", "cosmos-1", "skyreels-v2")))
def test_payloads_are_of_the_difference(name, payload, load) -> None:
    """The unconditional output is the conditional one plus what the payload makes of the last differences."""
    pipeline, steps = load(name), steps_of(name)
    factors = tuple((0.75,) if step == 4 else () for step in range(steps)) if payload == "scaled" else ()
    rule = Rule(kind="guidance", compute=(0, 1, 2, 3, 5), payload=payload, factors=factors)
    seen: list[torch.Tensor] = []
    with pabtune.broadcast(pipeline, Policy(name=payload, rules=(rule,))) as active, outputs_of(pipeline, seen):
        fast = run(pipeline, name)
    levels = active.mask.schedule.sigmas
    differences = [uncond - cond for cond, uncond in zip(seen[0:8:2], seen[1:8:2], strict=True)]
    places = {"linear": 2, "quadratic": 3, "scaled": 2}[payload]
    weights = lagrange(levels[4 - places : 4], levels[4]) if payload != "scaled" else [-0.75, 1.75]
    expected = sum(weight * each.double() for weight, each in zip(weights, differences[-places:], strict=True))
    served: list[torch.Tensor] = []
    with unconditional_calls_replaced(pipeline, at_call=9, difference=expected, served=served):
        by_hand = run(pipeline, name)
    assert np.abs(by_hand - fast).max() <= 1e-5 * max(1.0, np.abs(fast).max())
    assert np.abs(by_hand - run(pipeline, name)).max() > 1e-4 * np.abs(fast).max()


def lagrange(places, at) -> list[float]:
    return [float(np.prod([(at - b) / (a - b) for b in places if b != a])) for a in places]


@contextmanager
def outputs_of(pipeline, seen: list):
    """Outputs of the calls that happen, in order."""
    handle = pipeline.transformer.register_forward_hook(lambda _m, _a, output: seen.append(first_of(output).clone()))
    try:
        yield
    finally:
        handle.remove()


def first_of(output) -> torch.Tensor:
    return next(iter(output.values())) if isinstance(output, dict) else output[0]


@contextmanager
def unconditional_calls_replaced(pipeline, at_call: int, difference: torch.Tensor, served: list):
    """One call's output is that of the call before plus a difference."""

    def replace_output(_module, _args, output):
        served.append(first_of(output).clone())
        if len(served) == at_call + 1:
            return (served[-2] + difference.to(served[-2]),)
        return None

    handle = pipeline.transformer.register_forward_hook(replace_output)
    try:
        yield
    finally:
        handle.remove()


@pytest.mark.parametrize("name", cases(("wan-2.1",), SEQUENTIAL))
def test_range_one_changes_nothing(name, load) -> None:
    pipeline = load(name)
    idle = Policy(name="idle", rules=(Rule(kind="guidance", range=1, window=(0, steps_of(name))),))
    plain = run(pipeline, name)
    with pabtune.broadcast(pipeline, idle) as active:
        assert (run(pipeline, name) == plain).all()
    assert active.summary()["broadcast_calls"] == {}


@pytest.mark.parametrize("name", ["chronoedit"])
def test_what_comes_first_is_broadcast_itself_and_the_run_says_so(name, load) -> None:
    """As if the pipeline asked for the unconditional branch first, which is told by the card alone."""
    pipeline, policy = load(name), guidance(name)
    card = find_card(type(pipeline.transformer).__name__)
    reversed_card = replace(card, guidance=replace(card.guidance, conditional="last"))
    plain = run(pipeline, name)
    with broadcast_by_hand(pipeline, mask_of(pipeline, policy), 2, conditional=1, shares_call=False):
        expected = run(pipeline, name)
    with pabtune.broadcast(pipeline, policy, catalog=CATALOG.with_card(reversed_card)) as active:
        for _ in range(2):
            with pytest.warns(PabtuneWarning, match="its own last output is broadcast") as warned:
                fast = run(pipeline, name)
            assert len(warned) == 1
        assert active.stored_bytes == 0
    assert (fast == expected).all()
    assert (fast != plain).any()


@pytest.mark.parametrize("at_call", [5, 6, 7])
def test_an_aborted_run_leaves_nothing(at_call, load) -> None:
    pipeline = load("wan-2.1")
    with pabtune.broadcast(pipeline, mixture("wan-2.1")) as active:
        first = run(pipeline, "wan-2.1")
        abort(pipeline, "wan-2.1", at_call=at_call)
        session = active._broadcaster.latest.get()
        assert active.stored_bytes == 0
        assert not session._whole_calls._guidance._waiting
        assert (run(pipeline, "wan-2.1") == first).all()


@pytest.mark.parametrize(
    ("name", "changes"),
    [("wan-2.1", {"guidance_scale": 1.0}), ("kandinsky-5", {"guidance_scale": 1.0}), ("hunyuan-distilled", {})],
)
def test_a_run_that_says_it_is_not_guided_is_refused(name, changes, load) -> None:
    pipeline = load(name)
    with (
        pabtune.broadcast(pipeline, guidance(name)) as active,
        pytest.raises(PolicyError, match="the run has no guidance branches"),
    ):
        run(pipeline, name, **changes)
    assert not active.records


def test_a_guider_that_does_not_guide_is_said_after_the_run(load) -> None:
    """Its number of conditions may change from step to step, so that only the whole run tells."""
    pipeline = load("motif")
    pipeline.guider.guidance_scale = 1.0
    plain = run(pipeline, "motif")
    with (
        pabtune.broadcast(pipeline, guidance("motif")),
        pytest.warns(PabtuneWarning, match="had no unconditional branch"),
    ):
        assert (run(pipeline, "motif") == plain).all()


def test_guidance_that_is_turned_off_during_the_run(load) -> None:
    """As diffusers' documentation does it, from a callback, to save the unconditional calls of late steps."""

    def turn_off(pipeline, step: int, _timestep, _tensors) -> dict:
        if step == 3:
            pipeline._guidance_scale = 1.0
        return {}

    pipeline = load("wan-2.1")
    plain = run(pipeline, "wan-2.1", callback_on_step_end=turn_off)
    policy = Policy(name="early", rules=(Rule(kind="guidance", compute=(0, 1, 3)),))
    with pabtune.broadcast(pipeline, policy) as active:
        assert (run(pipeline, "wan-2.1", callback_on_step_end=turn_off) != plain).any()
        assert active.stored_bytes == 0
    unconditional = [record for record in active.records if record.branch == "uncond"]
    assert [(record.step, record.computed is None) for record in unconditional] == [
        (0, False), (1, False), (2, True), (3, False),
    ]  # fmt: skip


def test_unnamed_calls_of_an_unknown_class_are_refused(load) -> None:
    pipeline = load("chronoedit")
    card = find_card(type(pipeline.transformer).__name__)
    silent = replace(card, guidance=replace(card.guidance, conditional=None))
    with (
        pabtune.broadcast(pipeline, guidance("chronoedit"), catalog=CATALOG.with_card(silent)),
        pytest.raises(PolicyError, match="nothing tells which branch a call of ChronoEditTransformer3DModel is of"),
    ):
        run(pipeline, "chronoedit")


@pytest.mark.parametrize("payload", ["hold", "linear"])
@pytest.mark.parametrize("name", cases(("wan-2.1",), ("wan-2.1", "wan-2.2", "cosmos-2", "hunyuan-true-cfg")))
def test_what_is_held_is_foreseen(name, payload, load) -> None:
    pipeline, steps = load(name), steps_of(name)
    alone = Rule(kind="guidance", compute=(0, 1, *range(3, steps)), payload=payload)
    inner = Rule(kind="mlp", range=2, window=(2, steps))
    size = run(pipeline, name, output_type="latent").nbytes
    with pabtune.broadcast(pipeline, Policy(name="held", rules=(alone,)), memory=10**9) as active:
        run(pipeline, name)
        session = active._broadcaster.latest.get()
    outputs = 1 if payload == "hold" else 2
    assert session.ledger.most_bytes == session.predicted_bytes().max() == outputs * size
    with pabtune.broadcast(pipeline, Policy(name="held", rules=(alone, inner)), memory=10**9) as active:
        run(pipeline, name)
        session = active._broadcaster.latest.get()
    assert 0 < session.ledger.most_bytes <= session.predicted_bytes().max()


def test_what_is_not_needed_any_more_is_freed_at_once(load) -> None:
    """After each step: two differences while the first of two broadcasts is to come, none after the second."""
    pipeline, held, waiting = load("wan-2.1"), [], []

    def note(_pipeline, _step, _timestep, _tensors) -> dict:
        held.append(active.stored_bytes)
        waiting.append(len(active._broadcaster.latest.get()._whole_calls._guidance._waiting))
        return {}

    rule = Rule(kind="guidance", compute=(0, 1, 2, 3), payload="linear")
    size = run(pipeline, "wan-2.1", output_type="latent").nbytes
    with pabtune.broadcast(pipeline, Policy(name="last", rules=(rule,))) as active:
        run(pipeline, "wan-2.1", callback_on_step_end=note)
    assert held == [0, 0, size, 2 * size, 2 * size, 0]
    assert waiting == [0] * 6


@pytest.mark.parametrize("store", ["int8", "host"])
def test_other_stores(store, load) -> None:
    pipeline = load("wan-2.1")
    with pabtune.broadcast(pipeline, mixture("wan-2.1")):
        exact = run(pipeline, "wan-2.1")
    with pabtune.broadcast(pipeline, mixture("wan-2.1"), store=store) as active:
        found = run(pipeline, "wan-2.1")
        assert active.stored_bytes == 0
    if store == "host":
        assert (found == exact).all()
    assert np.abs(found - exact).max() <= 0.05 * np.abs(exact).max()


def test_a_skipped_call_fetches_no_weights(load) -> None:
    """accelerate moves the weights of each call that happens, and of no other."""
    pipeline = load("wan-2.1")
    with pabtune.broadcast(pipeline, guidance("wan-2.1")):
        expected = run(pipeline, "wan-2.1")
    pipeline.enable_model_cpu_offload(device="cpu")
    hook, moved = pipeline.transformer._hf_hook, []
    original = hook.pre_forward
    hook.pre_forward = lambda *args, **kwargs: (moved.append(1), original(*args, **kwargs))[1]
    with pabtune.broadcast(pipeline, guidance("wan-2.1")) as active:
        assert (run(pipeline, "wan-2.1") == expected).all()
    assert len(moved) == 2 * steps_of("wan-2.1") - active.summary()["broadcast_calls"]["guidance"]


def test_the_share_that_computes_is_counted_by_calls(load) -> None:
    pipeline, policy = load("wan-2.1"), guidance("wan-2.1")
    settings = {key: value for key, value in CASES["wan-2.1"].call.items() if key != "output_type"}
    (found,) = pabtune.evaluate(
        pipeline, [policy], [Prompt(prompt="a cat")], steps_of("wan-2.1"), score="none",
        arguments={key: value for key, value in settings.items() if key != "num_inference_steps"},
    )  # fmt: skip
    steps = steps_of("wan-2.1")
    assert found.compute_fraction == pytest.approx(1 - 2 / (2 * steps), abs=0.01)


def test_in_one_call_or_two_it_is_the_same(pipeline) -> None:
    """One mask for both: the embedded model can guide either way."""
    rules = (
        Rule(kind="guidance", range=3, window=(1, 6)), Rule(kind="transformer", compute=(0, 1, 2, 3, 4)),
        Rule(kind="spatial", compute=(0, 1, 3, 5), payload="linear"),
    )  # fmt: skip
    with pabtune.broadcast(pipeline, Policy(name="both ways", rules=rules)) as active:
        together = draw(pipeline, num_inference_steps=6, batched_guidance=True)
        counts = active.summary()["broadcast_calls"]["guidance"]
        apart = draw(pipeline, num_inference_steps=6, batched_guidance=False)
    assert active.summary()["broadcast_calls"]["guidance"] == counts > 0
    assert np.abs(together - apart).max() < 1e-5


@pytest.mark.slow
def test_frames_at_steps_of_their_own(load) -> None:
    """Calls that repeat a step compute; runs are alike and leave nothing."""
    name = "skyreels-v2-forcing-asynchronous"
    pipeline = load(name)
    plain = run(pipeline, name)
    with pabtune.broadcast(pipeline, guidance(name)) as active:
        first = run(pipeline, name)
        assert np.isfinite(first).all()
        assert (run(pipeline, name) == first).all()
        assert active.stored_bytes == 0
    assert (run(pipeline, name) == plain).all()
