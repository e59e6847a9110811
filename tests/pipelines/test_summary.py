"""What a server's monitoring reads of a run, on real pipelines: right, and without a wait for the device."""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import pabtune
from pabtune.records.policies import Policy
from pabtune.records.rules import Rule
from tests.methods import wan as methods_wan
from tests.pipelines.cases import abort, cases, policy, run

pytestmark = pytest.mark.filterwarnings("ignore")
READING = {"item", "tolist", "numpy", "cpu", "to", "__array__", "__bool__", "__int__", "__float__", "__index__"}
"""Ways from a tensor's values to the host; all others are operators, of which none is allowed."""


class Waited(Exception):
    """A tensor was computed with or read."""


class NoReading(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        if getattr(func, "__name__", "") in READING:
            raise Waited(func)
        return func(*args, **(kwargs or {}))


class NoOperator(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        raise Waited(func)


@contextmanager
def without_waiting() -> Iterator[None]:
    with NoReading(), NoOperator():
        yield


@pytest.mark.parametrize(
    "wait",
    [
        torch.Tensor.item, torch.Tensor.tolist, torch.Tensor.numpy, torch.Tensor.cpu, bool, float,
        lambda tensor: tensor + 1, lambda tensor: bool((tensor > 0).all()), lambda tensor: tensor.to("cpu"),
    ],
)  # fmt: skip
def test_the_guard_sees_every_way_to_the_host(wait) -> None:
    one = torch.ones(())
    wait(one)
    with without_waiting(), pytest.raises(Waited):
        wait(one)


@pytest.mark.parametrize("name", cases(("wan-2.1", "wan-2.2", "open-sora-1.2", "helios", "skyreels-v2-forcing-long")))
def test_it_tells_calls_bytes_digest_and_steps_in_the_middle_of_a_run_too(name, load) -> None:
    pipeline, used = load(name), policy(name)
    held: list[dict] = []

    def ask(*_) -> None:
        with without_waiting():
            held.append(active.summary())

    with pabtune.broadcast(pipeline, used) as active:
        handle = next(iter(active._broadcaster.target.transformers.values())).register_forward_hook(ask)
        run(pipeline, name)
        handle.remove()
        with without_waiting():
            told = active.summary()
    assert held
    assert max(each["stored_bytes"] for each in held) == told["most_stored_bytes"] > 0
    assert told["stored_bytes"] == 0
    assert told["policy_digest"] == used.digest == Policy.from_document(used.to_document()).digest
    assert json.loads(json.dumps(told)) == told
    check_against_records(told, active)


def check_against_records(told, active) -> None:
    """The symbols of each step are those of its calls, and these are as many as were counted."""
    sites, counted = active._sites, {"computed": Counter(), "broadcast": Counter()}
    expected = {site.kind: ["."] * active.mask.steps for site in sites}
    for record in active.records:
        for what, symbol in (("computed", "#"), ("broadcast", "-")):
            for index in getattr(record, what) or ():
                kind = sites[index].kind
                counted[what][kind] += 1
                before = expected[kind][record.step]
                expected[kind][record.step] = symbol if before in (".", symbol) else "+"
    assert told["step_pattern"] == {kind: "".join(line) for kind, line in expected.items()}
    assert {what: dict(each) for what, each in counted.items()} == {
        what: told[f"{what}_calls"] for what in ("computed", "broadcast")
    }
    assert any("-" in line for line in told["step_pattern"].values())


def test_steps_of_whole_calls_guidance_and_what_is_inside(load) -> None:
    """Branches in calls of their own: where the difference is broadcast the conditional one computes."""
    pipeline = load("wan-2.1")
    rules = (Rule(kind="transformer", compute=(0, 1, 3, 4)), Rule(kind="guidance", range=2, window=(1, 6)))
    with pabtune.broadcast(pipeline, Policy(name="both", rules=rules), any_steps=True) as active:
        run(pipeline, "wan-2.1")
    told = active.summary()
    assert told["step_pattern"]["transformer"] == "##-##-"
    assert told["step_pattern"]["guidance"] == "#-.##."  # due at step 2, which does not happen, and at 4
    assert told["step_pattern"]["full"] == "##.##."
    check_against_records(told, active)


def test_both_branches_in_one_call_are_half_a_call(load) -> None:
    pipeline = load("open-sora-1.2")
    halved = Policy(name="half", rules=(Rule(kind="guidance", range=2, window=(1, 6)),))
    with pabtune.broadcast(pipeline, halved, any_steps=True) as active:
        run(pipeline, "open-sora-1.2")
    assert active.summary()["step_pattern"]["guidance"] == "#-#-#-"
    assert active.summary()["step_pattern"]["spatial"] == "#+#+#+"


def test_an_aborted_run_shows_where_it_ended(load) -> None:
    pipeline = load("wan-2.1")
    with pabtune.broadcast(pipeline, policy("wan-2.1")) as active:
        abort(pipeline, "wan-2.1", at_call=5)
    assert active.summary()["step_pattern"]["cross"] == "#-...."


def test_a_policy_that_decides_in_the_run_tells_the_same_and_has_no_digest() -> None:
    from pabtune.methods.teacache import TeaCache

    pipeline, method = methods_wan.build(), TeaCache()
    calibration = method.calibrate(methods_wan.recordings(pipeline, count=2), method.settings)
    with pabtune.broadcast(pipeline, method.at(50.0, calibration, methods_wan.STEPS)) as active:
        methods_wan.draw(pipeline)
        with without_waiting():
            told = active.summary()
    computed = set.union(*(set(steps) for steps in active.computed_steps.values()))
    (line,) = told["step_pattern"].values()
    assert line == "".join("#" if step in computed else "-" for step in range(methods_wan.STEPS))
    assert "-" in line
    assert told["policy_digest"] is None
    assert set(told) == set(active_summary_keys())


def active_summary_keys() -> set[str]:
    """What a policy that is fixed before the run tells."""
    pipeline = methods_wan.build()
    with pabtune.broadcast(pipeline, Policy(name="none")) as active:
        return set(active.summary())
