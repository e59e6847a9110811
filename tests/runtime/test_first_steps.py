"""The content class of a run, told by its first steps: the result is that of the class from the start, bit by bit."""

import gc
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode

import pabtune
from pabtune.records.errors import PabtuneWarning, PolicyError
from pabtune.records.first_steps import FirstSteps
from pabtune.records.policies import MadeFor, Policy
from pabtune.records.rules import Rule
from pabtune.runtime.first_steps import FirstStepsWatch, numbers_of
from tests.conftest import STEPS, draw, make_pipeline
from tests.pipelines.cases import CASES, Aborted, abort, run

FIRST = 3
WINDOW = (FIRST, STEPS)
NUMBERS = ("size@2", "spread@3")


def told_as(content: str | None, axis: int | None = 2) -> FirstSteps:
    """A rule that takes every video for one class; None = for none."""
    bias = {name: 5.0 if name == content else 0.0 for name in ("still", "slow", "fast")}
    number = "size@2" if axis is None else "spread@3"
    weights = {name: {number: 1e-6 if name == "still" else 0.0} for name in bias}
    return FirstSteps(steps=FIRST, frame_axis=axis, bias=bias, weights=weights, margin=1.0)


POLICY = Policy(
    name="by first steps",
    rules=(Rule(kind="spatial", range=2, window=WINDOW),),
    variants={
        "still": (Rule(kind="stack", range=3, window=WINDOW), Rule(kind="guidance", range=2, window=WINDOW)),
        "slow": (
            Rule(kind="stack", range=2, window=WINDOW, layers=(1,)),
            Rule(kind="transformer", range=2, window=(5, STEPS), payload="linear"),
        ),
        "fast": (
            Rule(kind="block", range=2, window=WINDOW),
            Rule(kind="transformer", range=2, window=WINDOW, payload="quadratic"),
        ),
    },
    first_steps=told_as("still"),
    made_for=MadeFor(steps=STEPS),
)
"""Payloads need one, two or three of the first outputs; every class has units of its own."""


@pytest.fixture(params=[True, False], ids=["one call", "two calls"])
def batched(request) -> bool:
    return request.param


def without_bytes(summary: dict) -> dict:
    """A summary but for the most bytes held, as what any class needs is until it is told, and for the file's digest."""
    return {name: value for name, value in summary.items() if name not in ("most_stored_bytes", "policy_digest")}


@pytest.mark.parametrize("store", ["exact", pytest.param("int8", marks=pytest.mark.slow)])
def test_the_result_is_that_of_the_class_from_the_start(pipeline, batched, store) -> None:
    seen = []
    for content in ("still", "slow", "fast", None):
        with pabtune.broadcast(pipeline, POLICY, content, store=store) as active:
            frames, summary, records = draw(pipeline, batched_guidance=batched), active.summary(), active.records
        policy = replace(POLICY, first_steps=told_as(content))
        with pabtune.broadcast(pipeline, policy, "auto", store=store) as active:
            for _ in range(2):
                assert (draw(pipeline, batched_guidance=batched) == frames).all()
                assert without_bytes(active.summary()) == without_bytes(summary)
                assert active.summary()["content"] == content
                assert active.records == records
                assert active.mask.compute.shape == active.called.shape
                assert active.stored_bytes == 0
        seen.append(frames)
    assert all((one != other).any() for at, one in enumerate(seen) for other in seen[:at])


def measured(pipeline, prompt: str, seed: int, **arguments) -> list[float]:
    """The numbers of one run, in full."""
    inputs = []

    def note(_module, args, kwargs) -> None:
        inputs.append(kwargs["hidden_states"][:1].clone())

    handle = pipeline.transformer.register_forward_pre_hook(note, with_kwargs=True)
    draw(pipeline, prompt, seed, **arguments)
    handle.remove()
    return numbers_of(inputs[: FIRST + 1], NUMBERS, 2)[0].tolist()


def by_size(low: float, high: float) -> FirstSteps:
    """`still` for the video of lower `size@2`, `fast` for that of the higher one, nothing in the middle."""
    slope = 4.0 / (high - low)
    middle = (low + high) / 2
    weights = {"still": {"size@2": -slope}, "fast": {"size@2": slope}}
    bias = {"still": slope * middle, "fast": -slope * middle}
    return FirstSteps(steps=FIRST, frame_axis=None, bias=bias, weights=weights, margin=1.0)


def test_each_call_is_decided_by_what_it_shows_and_a_batch_must_agree(pipeline) -> None:
    sizes = {seed: measured(pipeline, "a red circle", seed)[0] for seed in (1, 2, 3, 4)}
    low, *_, high = sorted(sizes, key=sizes.get)
    policy = replace(POLICY, first_steps=by_size(sizes[low], sizes[high]))
    prompts, chosen = ["a red circle"] * 2, []
    with pabtune.broadcast(pipeline, policy, "auto") as active:
        for seed in (low, high, low):
            draw(pipeline, "a red circle", seed)
            chosen.append(active.summary()["content"])
        for seeds in ((low, low), (low, high)):
            generators = [torch.Generator().manual_seed(seed) for seed in seeds]
            pipeline(prompts, generator=generators, num_inference_steps=STEPS)
            chosen.append(active.summary()["content"])
    assert chosen == ["still", "fast", "still", "still", None]


def test_the_way_of_guiding_changes_no_number(pipeline) -> None:
    one, two = (measured_two_ways(batched) for batched in (True, False))
    assert one == pytest.approx(two, rel=1e-4)


def measured_two_ways(batched: bool) -> list[float]:
    pipeline, firsts = make_pipeline(), []

    def note(_module, args, kwargs) -> None:
        firsts.append(kwargs["hidden_states"][:1].clone())

    pipeline.transformer.register_forward_pre_hook(note, with_kwargs=True)
    draw(pipeline, batched_guidance=batched)
    own = firsts if batched else firsts[::2]
    return numbers_of(own[: FIRST + 1], NUMBERS, 2)[0].tolist()


def test_numbers_are_what_they_say() -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(2, 3, 4, 5, 5, generator=generator)
    still = torch.randn(2, 3, 1, 5, 5, generator=generator).expand_as(noise)
    still = still - noise * ((still * noise).sum((1, 2, 3, 4), True) / (noise * noise).sum((1, 2, 3, 4), True))
    moving = torch.zeros_like(noise)
    moving[:, :, 1] = 1.0
    latents = [torch.cat([noise, still], 1), torch.cat([noise - 0.3 * noise + 2 * still, still], 1)]
    (first, _) = numbers_of(latents, ("size@1",), 2)[:, 0].tolist()
    expected = 4 * (still[0] ** 2).sum() / (noise[0] ** 2).sum()  # the channels that never change say nothing
    assert first == pytest.approx(float(torch.log(expected)), rel=1e-4)
    steps = [numbers_of([noise, noise * 0.7 + video], ("step@1",), 2)[0, 0].item() for video in (still, moving)]
    assert steps[0] < steps[1] < 1.5


class Waits(TorchFunctionMode):
    """Counts what waits for a device."""

    count = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.count += getattr(function, "__name__", "") in (
            "tolist",
            "item",
            "cpu",
            "numpy",
            "__bool__",
            "__float__",
            "__int__",
        )
        return function(*args, **(kwargs or {}))


def test_the_device_is_waited_for_once(pipeline) -> None:
    counts = {}
    for content in ("still", "auto"):
        with pabtune.broadcast(pipeline, POLICY, content), Waits() as waits:
            draw(pipeline)
        counts[content] = waits.count
    assert counts["auto"] == counts["still"] + 1


def test_a_run_that_is_stopped_leaves_nothing(pipeline) -> None:
    with pabtune.broadcast(pipeline, POLICY, "auto") as active:
        frames = draw(pipeline)
        for at in (1, FIRST, FIRST + 2):

            def stop(_pipeline, step, _timestep, tensors, at=at):
                if step == at:
                    raise Aborted
                return tensors

            with pytest.raises(Aborted):
                draw(pipeline, callback_on_step_end=stop)
            assert active.stored_bytes == 0
            assert not any(type(each) is FirstStepsWatch for each in gc.get_objects()), "which holds latents"
            assert active.summary()["content"] == (None if at < FIRST else "still")
            assert (draw(pipeline) == frames).all()


def test_another_schedule_tells_nothing_and_says_so(pipeline) -> None:
    policy = replace(POLICY, variants={"still": (Rule(kind="spatial", range=3, first=FIRST, last=0),)}, rules=())
    with pabtune.broadcast(pipeline, policy, "auto") as active:
        with pytest.warns(PabtuneWarning, match="on the schedule that it was made for alone"):
            frames = draw(pipeline, num_inference_steps=STEPS + 4)
        assert active.summary()["content"] is None
    assert (draw(pipeline, num_inference_steps=STEPS + 4) == frames).all()


def test_what_cannot_be_told_is_refused(pipeline) -> None:
    early = {**POLICY.variants, "slow": (Rule(kind="spatial", range=2, window=(2, STEPS)),)}
    with pytest.raises(PolicyError, match="variant slow: the rule for spatial broadcasts from step 2 on"):
        replace(POLICY, variants=early)
    with pytest.raises(PolicyError, match="a bare transformer"):
        pabtune.enable(pipeline.transformer, POLICY, "auto")
    with pytest.raises(PolicyError, match="limit of memory"):
        pabtune.enable(pipeline, POLICY, "auto", memory=10**9)
    by_level = {"still": (Rule(kind="spatial", range=2, noise_window=(0.1, 0.999)),)}
    with (
        pabtune.broadcast(pipeline, replace(POLICY, variants=by_level), "auto"),
        pytest.raises(PolicyError, match="variant still broadcasts in step 1 of this run"),
    ):
        draw(pipeline)


@pytest.mark.parametrize(
    "name",
    [
        "wan-2.1",
        "cogvideox-ddim",
        *(pytest.param(each, marks=pytest.mark.slow) for each in ("ltx", "wan-2.2", "latte")),
    ],
)
def test_real_pipelines(name) -> None:
    """Branches in turns and in one call; the second run decides again, after one that was stopped."""
    pipeline, steps = CASES[name].build(), CASES[name].call["num_inference_steps"]
    pipeline.set_progress_bar_config(disable=True)
    window = (2, steps)
    policy = Policy(
        name="real",
        rules=(Rule(kind="mlp", range=2, window=window),),
        variants={
            "still": (Rule(kind="transformer", range=2, window=window), Rule(kind="guidance", range=2, window=window)),
            "fast": (Rule(kind="stack", range=2, window=window, payload="linear"),),
        },
    )
    results = []
    for content in ("still", "fast", None):
        bias = {each: 5.0 if each == content else 0.0 for each in ("still", "fast")}
        weights = {"still": {"size@1": 1e-6}, "fast": {"size@2": 1e-6}}
        told = FirstSteps(steps=2, frame_axis=None, bias=bias, weights=weights, margin=1.0)
        with pabtune.broadcast(pipeline, policy, content) as active:
            expected, summary = run(pipeline, name), active.summary()
        with pabtune.broadcast(pipeline, replace(policy, first_steps=told), "auto") as active:
            for stop_at in (None, 2, 4):
                if stop_at is not None:
                    abort(pipeline, name, stop_at)
                    assert active.stored_bytes == 0
                np.testing.assert_array_equal(run(pipeline, name), expected)
                assert without_bytes(active.summary()) == without_bytes(summary)
        results.append(expected)
    assert (results[0] != results[1]).any()
    assert (results[1] != results[2]).any()
