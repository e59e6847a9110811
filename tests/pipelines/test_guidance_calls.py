"""Guidance branches in calls of their own: the unconditional call is skipped, against doing it by hand."""

from collections import Counter
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest

import pabtune
from pabtune.catalog import CATALOG, find_card
from pabtune.planning.masks import resolve
from pabtune.planning.schedules import NoiseSchedule
from pabtune.records.errors import PabtuneWarning, PolicyError
from pabtune.records.policies import Policy
from pabtune.records.rules import Rule
from pabtune.runtime.targets import Target
from pabtune.testing.oracle import broadcast_by_hand
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
