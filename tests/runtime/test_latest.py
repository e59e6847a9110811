"""Two requests of a server, in threads of their own: each asks about its own call alone."""

import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from copy import copy, deepcopy

import pytest

import pabtune
from pabtune.methods.fbcache import FirstBlockCache
from pabtune.methods.method import Recordings
from pabtune.tuning.generation import Settings
from tests.conftest import PROMPTS, draw, make_transformer, pyramid
from tests.runtime.test_engine import call


def own(pipeline):
    """A shallow copy with a scheduler of its own, as a server makes one per request."""
    copied = copy(pipeline)
    copied.scheduler = deepcopy(pipeline.scheduler)
    return copied


def dynamic(pipeline):
    method, recorded = (
        FirstBlockCache(),
        Recordings(pipeline=pipeline, batches=[PROMPTS[:1]], settings=Settings(steps=8)),
    )
    return method.at(5.0, method.calibrate(recorded, method.settings), None)


@pytest.mark.parametrize("decides", [False, True], ids=["fixed", "decides in the run"])
def test_a_thread_never_gets_the_summary_of_anothers_call(pipeline, decides) -> None:
    """The calls overlap, begin in one order and end in the other, and have other numbers of steps."""
    policy = dynamic(pipeline) if decides else pyramid()
    with pabtune.broadcast(pipeline, policy) as run:
        expected = {}
        for steps in (8, 10):
            draw(pipeline, num_inference_steps=steps)
            expected[steps] = run.summary()
        assert expected[8]["step_pattern"] != expected[10]["step_pattern"]
        has_begun, has_ended = threading.Event(), threading.Event()

        def long(pipe, step, timestep, arguments):
            has_begun.set()
            assert has_ended.wait(60)
            return arguments

        def first() -> dict:
            draw(own(pipeline), num_inference_steps=8, callback_on_step_end=long)
            return run.summary()

        def second() -> dict:
            assert has_begun.wait(60)
            draw(own(pipeline), num_inference_steps=10)
            held = run.summary()
            has_ended.set()
            return held

        with ThreadPoolExecutor(2) as threads:
            one, other = threads.submit(first), threads.submit(second)
            assert one.result() == expected[8]
            during = other.result()
        assert during.pop("stored_bytes") > 0  # what the first call holds meanwhile
        assert during == {key: value for key, value in expected[10].items() if key != "stored_bytes"}
        assert run.summary() == expected[10]  # this thread's own


def test_a_thread_without_a_call_gets_none(pipeline) -> None:
    with pabtune.broadcast(pipeline, pyramid()) as run, ThreadPoolExecutor(1) as threads:
        draw(pipeline)
        told = threads.submit(run.summary).result()
        assert told["computed_calls"] == told["broadcast_calls"] == told["step_pattern"] == {}
        assert (told["policy"], told["policy_digest"]) == ("pyramid", pyramid().digest)
        assert threads.submit(lambda: run.mask).result() is None
        assert run.mask is not None


def test_what_a_thread_asked_about_is_freed_with_it(pipeline) -> None:
    with pabtune.broadcast(pipeline, pyramid()) as run:

        def request() -> weakref.ref:
            draw(copied := own(pipeline))
            assert run.summary()["step_pattern"]
            return weakref.ref(copied)

        with ThreadPoolExecutor(1) as threads:
            gone = threads.submit(request).result()
        gc.collect()
        assert gone() is None


def test_a_bare_transformer_has_one_run_for_all_threads() -> None:
    transformer = make_transformer()
    with pabtune.broadcast(transformer, pyramid(6)) as run, ThreadPoolExecutor(1) as threads:
        for step in range(3):
            threads.submit(call, transformer, step, 16).result()
        for step in range(3, 6):
            call(transformer, step, 16)
        assert run.summary()["step_pattern"]["temporal"] == "#--#-#"
        assert threads.submit(run.summary).result() == run.summary()
