"""The guidance difference as a site: an independent implementation gives the same bits; runs without guidance are refused."""

import pytest
from diffusers import DiffusionPipeline

import pabtune
from pabtune.planning.masks import ComputeMask, resolve
from pabtune.planning.schedules import NoiseSchedule
from pabtune.records.errors import PolicyError
from pabtune.records.policies import Policy
from pabtune.records.rules import Rule
from pabtune.runtime.flops import CallFlops, computed_fraction
from pabtune.runtime.targets import Target
from pabtune.testing.oracle import broadcast_by_hand
from tests.pipelines.cases import CASES, cases, run

pytestmark = pytest.mark.filterwarnings("ignore")

BATCHED = {
    "allegro": 1, "cogvideox-ddim": 1, "cogvideox-dpm": 1, "cogvideox-i2v": 1, "consisid": 1, "easyanimate": 1, "latte": 1,
    "ltx": 1, "ltx-image": 1, "ltx-2": 1, "ltx-2.3": 1, "mochi": 1, "open-sora-1.2": 0, "open-sora-plan-1.1": 0,
    "sana-video": 1,
}  # fmt: skip
"""Pipelines with both branches in one call, and which half is conditional."""


def guidance(name: str) -> Policy:
    steps = CASES[name].call["num_inference_steps"]
    return Policy(name="guidance", rules=(Rule(kind="guidance", range=2, window=(1, steps)),))


def mixture(name: str) -> Policy:
    """Whole calls, the guidance difference and the first kind of the model, with ranges that meet in every way."""
    steps, kind = CASES[name].call["num_inference_steps"], next(iter(CASES[name].sites))
    skipped = Rule(kind="transformer", compute=tuple(step for step in range(steps) if step != 3))
    inner = Rule(kind=kind, range=2, window=(1, steps))
    return Policy(name="mixture", rules=(skipped, Rule(kind="guidance", range=3, window=(1, steps)), inner))


def mask_of(pipeline: DiffusionPipeline, policy: Policy) -> ComputeMask:
    """After a run, of the steps that its scheduler made."""
    sites = Target.of(pipeline).under(policy).sites
    return resolve(policy, sites, NoiseSchedule(steps=len(pipeline.scheduler.timesteps)))


@pytest.mark.parametrize("policy", [guidance, mixture])
@pytest.mark.parametrize("name", cases(["cogvideox-ddim", "open-sora-1.2"], BATCHED))
def test_it_equals_broadcasting_by_hand(name, policy, load) -> None:
    pipeline = load(name)
    plain, mask = run(pipeline, name), mask_of(pipeline, policy(name))
    calls_per_step = len(CASES[name].branches)
    with broadcast_by_hand(pipeline, mask, calls_per_step, conditional=BATCHED[name]):
        expected = run(pipeline, name)
    with pabtune.broadcast(pipeline, policy(name)) as active:
        found = run(pipeline, name)
    assert (found == expected).all()
    assert (found != plain).any()
    assert any(each.is_halved for each in active.records)
    assert active.stored_bytes == 0
    assert (run(pipeline, name) == plain).all()


def test_a_run_without_guidance_is_refused(load) -> None:
    pipeline = load("cogvideox-ddim")
    with (
        pabtune.broadcast(pipeline, guidance("cogvideox-ddim")),
        pytest.raises(PolicyError, match="no guidance branches"),
    ):
        run(pipeline, "cogvideox-ddim", guidance_scale=1.0)


def test_half_a_call_counts_half_of_what_computes() -> None:
    calls = [CallFlops(total=100, sites=(40, 10))] * 2
    computed = [frozenset({0, 1}), frozenset({1})]
    assert computed_fraction(calls, computed, [False, True]) == pytest.approx((100 + 30) / 200)


@pytest.mark.parametrize("payload", ["hold", "linear"])
@pytest.mark.parametrize("store", ["exact", "int8", "host"])
def test_what_is_held_is_predicted(store, payload, load) -> None:
    name, pipeline, steps = (
        "cogvideox-ddim",
        load("cogvideox-ddim"),
        CASES["cogvideox-ddim"].call["num_inference_steps"],
    )
    rules = (
        Rule(kind="guidance", compute=(0, 1, *range(3, steps)), payload=payload),
        Rule(kind="full", range=2, window=(2, steps)),
    )
    with pabtune.broadcast(pipeline, Policy(name="held", rules=rules), memory=10**9, store=store) as active:
        run(pipeline, name)
        session = active._broadcaster.latest.get()
    if store == "exact":
        assert session.ledger.most_bytes == session.predicted_bytes().max() > 0
    assert sum(each.is_halved for each in active.records) == 1
