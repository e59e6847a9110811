"""A policy that is enabled once and serves for weeks: mixed requests, each as on a fresh model, flat memory, right counts."""

import gc
import random
import tracemalloc
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np
import pytest
import torch
from diffusers import WanPipeline
from peft import LoraConfig

import pabtune
from pabtune.records.policies import Policy
from pabtune.records.rules import Rule
from pabtune.runtime.noise_levels import noise_levels
from pabtune.runtime.targets import Target
from pabtune.testing.oracle import mask_by_hand
from tests.pipelines.cases import CASES, run
from tests.pipelines.parts import OTHER_PROMPT, PROMPT
from tests.pipelines.wan import scheduler

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
REQUESTS, ROUNDS = 1000, 10
MOST_GROWTH = 100_000
"""Bytes that Python may hold more after 700 requests: caches of libraries. A leaked request would be 700 times its records."""

RULES = {"full": (2, (0.2, 0.99)), "cross": (3, (0.1, 0.999)), "mlp": (2, (0.3, 0.95))}
"""Range and window in noise levels of each kind: one policy for every number of steps."""

POLICY = Policy(
    name="served",
    rules=tuple(Rule(kind=kind, range=each, noise_window=window) for kind, (each, window) in RULES.items()),
)
SETTINGS = list(product((6, 9), (16, 32), (1, 2), (PROMPT, OTHER_PROMPT), (1.0, 5.0), (None, "first", "second")))


class Failed(Exception):
    """What goes wrong inside of the transformer."""


class Cancelled(BaseException):
    """What a server raises in a request whose client is gone."""


@dataclass(frozen=True)
class Request:
    """One request; `ends` is how: `done`, or at a call by `Failed`, or after a step by `Cancelled`."""

    steps: int
    size: int
    batch: int
    prompt: str
    guidance: float
    lora: str | None
    ends: str = "done"
    at: int = 0

    @property
    def branches(self) -> int:
        return 2 if self.guidance > 1 else 1

    def steps_done(self) -> list[int]:
        """Steps of each branch whose call was over."""
        if self.ends == "cancelled":
            return [self.at + 1] * self.branches
        calls = self.at if self.ends == "failed" else self.steps * self.branches
        return [(calls + self.branches - 1 - branch) // self.branches for branch in range(self.branches)]


def swap_lora(pipeline: WanPipeline, name: str | None) -> None:
    pipeline.unload_lora_weights()
    if name is not None:
        torch.manual_seed(len(name))
        config = LoraConfig(r=2, target_modules=["to_q", "to_k", "to_v", "to_out.0"], init_lora_weights=False)
        pipeline.transformer.add_adapter(config, name)


def draw(pipeline: WanPipeline, request: Request) -> np.ndarray | None:
    """The video; None if the request did not end well, as it should not."""
    transformer, calls = pipeline.transformer, []

    def fail(*_) -> None:
        calls.append(1)
        if len(calls) == request.at + 1:
            raise Failed

    def cancel(pipe, step, timestep, arguments):
        if step == request.at:
            raise Cancelled
        return arguments

    more = {"callback_on_step_end": cancel} if request.ends == "cancelled" else {}
    handle = transformer.register_forward_hook(fail) if request.ends == "failed" else None
    try:
        return run(
            pipeline, "wan-2.1", [request.prompt] * request.batch, list(range(request.batch)),
            num_inference_steps=request.steps, height=request.size, width=request.size,
            guidance_scale=request.guidance, **more,
        )  # fmt: skip
    except (Failed, Cancelled):
        assert request.ends != "done"
        return None
    finally:
        if handle is not None:
            handle.remove()


def mixed_requests() -> list[Request]:
    """Most end well; the LoRA is swapped now and then."""
    chance, lora, requests = random.Random(20), None, []
    for _ in range(REQUESTS):
        if chance.random() < 0.1:
            lora = chance.choice([None, "first", "second"])
        chosen = Request(*chance.choice(SETTINGS)[:-1], lora)
        ends = chance.choices(("done", "failed", "cancelled"), (8, 1, 1))[0]
        at = chance.randrange(chosen.steps - 1)
        requests.append(Request(*chosen_values(chosen), ends, at))
    return requests


def chosen_values(request: Request) -> tuple:
    return (request.steps, request.size, request.batch, request.prompt, request.guidance, request.lora)


@cache
def plan(steps: int) -> Mapping[str, np.ndarray]:
    """What computes, (sites of a kind, steps), decided by hand from the rules' words and the scheduler's noise levels."""
    own = scheduler()
    own.set_timesteps(steps)
    levels, rules = noise_levels(own), []
    for kind, (each, (low, high)) in RULES.items():
        inside = [step for step, level in enumerate(levels) if low < level < high]
        rules.append(Rule(kind=kind, range=each, window=(inside[0], inside[-1] + 1)))
    sites = Target.of(CASES["wan-2.1"].build()).sites
    mask = mask_by_hand(Policy(name="by hand", rules=tuple(rules)), sites, steps)
    return {kind: mask.compute[[site.kind == kind for site in sites]] for kind in RULES}


def predicted(request: Request, *, computes: bool) -> dict[str, int]:
    """Computed or broadcast calls per kind."""
    counts: Counter[str] = Counter()
    for kind, rows in plan(request.steps).items():
        counts[kind] = sum(int((rows[:, :done] == computes).sum()) for done in request.steps_done())
    return dict(+counts)


def as_on_a_fresh_model(pipeline: WanPipeline) -> dict[tuple, np.ndarray]:
    """The video of each setting; the policy is enabled for it alone."""
    videos = {}
    for lora in (None, "first", "second"):
        swap_lora(pipeline, lora)
        for values in SETTINGS:
            if values[-1] == lora:
                with pabtune.broadcast(pipeline, POLICY, any_steps=True):
                    videos[values] = draw(pipeline, Request(*values))
    return videos


def test_a_thousand_mixed_requests_are_each_as_on_a_fresh_model_and_leave_nothing(load) -> None:
    expected, pipeline, held = as_on_a_fresh_model(load("wan-2.1")), load("wan-2.1"), []
    assert len({video.tobytes() for video in expected.values()}) == len(SETTINGS)
    requests, outcomes, most_held = mixed_requests(), Counter(), {}
    loaded: list[str | None] = [None]
    schedule = deepcopy(pipeline.scheduler.config)

    with pabtune.broadcast(pipeline, POLICY, any_steps=True) as active, ThreadPoolExecutor(2) as threads:

        def serve(request: Request) -> None:
            if request.lora != loaded[0]:
                swap_lora(pipeline, request.lora)
                loaded[0] = request.lora
            video, told = draw(pipeline, request), active.summary()
            assert (video is None) == (request.ends != "done")
            assert video is None or (video == expected[chosen_values(request)]).all()
            assert told["computed_calls"] == predicted(request, computes=True), request
            assert told["broadcast_calls"] == predicted(request, computes=False), request
            assert told["stored_bytes"] == active.stored_bytes == 0
            if video is not None:
                key = (request.steps, request.size, request.batch, request.guidance)
                assert most_held.setdefault(key, told["most_stored_bytes"]) == told["most_stored_bytes"] > 0

        tracemalloc.start()
        for start in range(0, REQUESTS, REQUESTS // ROUNDS):
            for request in requests[start : start + REQUESTS // ROUNDS]:
                threads.submit(serve, request).result()
                outcomes[request.ends] += 1
            gc.collect()
            held.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
        assert not active._broadcaster.ongoing
        assert all(hook.outputs == () for hook in active._broadcaster.hooks)
    assert min(outcomes.values()) > 50
    assert held[-1] - held[2] < MOST_GROWTH, held
    assert pipeline.scheduler.config == schedule
    swap_lora(pipeline, None)
    assert not any("pabtune" in name for module in pipeline.transformer.modules() for name in vars(module))
