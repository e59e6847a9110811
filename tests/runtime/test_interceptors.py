"""Calls of one transformer by several threads, while policies come and go and copies are made."""

import copy
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import pabtune
from pabtune.models.shapes.pipeline import ShapesPipeline
from pabtune.records.errors import ModelError
from pabtune.runtime.interceptors import lock_of
from tests.conftest import STEPS, around, draw, pyramid

ROUNDS = 12


@pytest.mark.filterwarnings("ignore::pabtune.records.errors.PabtuneWarning")
@pytest.mark.parametrize(
    "change",
    [
        lambda pipeline, run: run.disable(),
        lambda pipeline, run: pabtune.enable(around(pipeline.transformer, pipeline), pyramid()),
        lambda pipeline, run: copy.deepcopy(pipeline.transformer),
    ],
    ids=["disable", "enable", "copy"],
)
def test_hooks_change_between_calls_of_the_transformer_and_not_inside_of_one(pipeline, change) -> None:
    """Its remaining modules ran with the hooks of another policy, or with none beside outputs that were broadcast."""
    inside, go_on, changed = threading.Event(), threading.Event(), threading.Event()

    def hold(*_) -> None:
        inside.set()
        go_on.wait(20)

    def change_it() -> None:
        change(pipeline, run)
        changed.set()

    run = pabtune.enable(pipeline, pyramid())
    handle = pipeline.transformer.temporal_blocks[0].register_forward_pre_hook(hold)
    threads = [threading.Thread(target=work) for work in (lambda: draw(pipeline), change_it)]
    threads[0].start()
    assert inside.wait(20)
    threads[1].start()
    assert not changed.wait(0.3)
    handle.remove()
    go_on.set()
    for thread in threads:
        thread.join(20)
    assert changed.is_set()
    pabtune.disable(pipeline)


@pytest.mark.parametrize("change", ["enable another", "disable another", "disable"])
def test_a_call_that_waited_goes_through_the_hooks_that_are_there_by_then(pipeline, change) -> None:
    """It went on with those of before, past a new one, which took it for a call past pabtune."""
    other = around(pipeline.transformer, pipeline)
    run, alone = pabtune.enable(pipeline, pyramid()), draw(pipeline)
    if change == "disable another":
        another = pabtune.enable(other, pyramid())
    encoded, go_on = threading.Event(), threading.Event()

    def hold(*_) -> None:
        encoded.set()
        go_on.wait(20)

    handle = pipeline.text_encoder.register_forward_hook(hold)
    with ThreadPoolExecutor(1) as thread:
        drawn = thread.submit(draw, pipeline)
        assert encoded.wait(20)
        with lock_of(pipeline.transformer):
            go_on.set()
            time.sleep(0.3)  # from the text to the first call of the transformer, which waits
            if change == "enable another":
                another = pabtune.enable(other, pyramid())
            else:
                (run if change == "disable" else another).disable()
        video = drawn.result(20)
    handle.remove()
    if change == "enable another":
        another.disable()
    if change == "disable":
        assert (video == draw(pipeline)).all()
    else:
        assert (video == alone).all()
        run.disable()


@pytest.mark.filterwarnings("ignore::pabtune.records.errors.PabtuneWarning")
def test_calls_are_not_refused_while_another_thread_copies_the_model_or_enables_policies(pipeline) -> None:
    """A copy took the hooks off for a moment, in which the cache context was lost: less was broadcast, in silence. And a call
    that met half of the hooks of another policy was refused.
    """
    other, expected, ended = around(pipeline.transformer, pipeline), None, threading.Event()
    with pabtune.broadcast(pipeline, pyramid()):
        expected = draw(pipeline)

    def disturb() -> None:
        while not ended.is_set():
            copy.deepcopy(pipeline.transformer)
            with pabtune.broadcast(other, pyramid()):
                pass

    with pabtune.broadcast(pipeline, pyramid()), ThreadPoolExecutor(1) as thread:
        disturbing = thread.submit(disturb)
        try:
            for _ in range(ROUNDS):
                assert (draw(pipeline) == expected).all()
        finally:
            ended.set()
        disturbing.result(20)


def recorded_calls(pipeline: ShapesPipeline, seed: int) -> list[dict]:
    """Arguments of each call of the transformer in a run."""
    calls: list[dict] = []
    handle = pipeline.transformer.register_forward_pre_hook(
        lambda _, __, kwargs: calls.append(kwargs), with_kwargs=True
    )
    draw(pipeline, seed=seed)
    handle.remove()
    return calls


def test_two_threads_that_drive_one_bare_transformer_are_refused(pipeline) -> None:
    """Each went on with the other's loop: one request was served the outputs of another."""
    transformer = pipeline.transformer
    requests = [recorded_calls(pipeline, seed) for seed in (0, 1)]

    @torch.no_grad()
    def call(request: int, step: int) -> torch.Tensor:
        with transformer.cache_context("cond+uncond", step_index=step, num_inference_steps=STEPS):
            return transformer(**requests[request][step])[0]

    def alone(request: int) -> list[torch.Tensor]:
        return [call(request, step) for step in range(STEPS)]

    with (
        pabtune.broadcast(transformer, pyramid()), ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other
    ):  # fmt: skip
        expected = one.submit(alone, 0).result()
        one.submit(call, 0, 0).result()
        taken_over = [other.submit(call, 1, 0).result()]
        with pytest.raises(ModelError, match="two threads drive transformer at once"):
            one.submit(call, 0, 1).result()
        taken_over += [other.submit(call, 1, step).result() for step in range(1, STEPS)]
        # One after the other, and a loop that goes from thread to thread, are as before.
        assert all((each == known).all() for each, known in zip(one.submit(alone, 0).result(), expected, strict=True))
        hopping = [(one, other)[step % 2].submit(call, 0, step).result() for step in range(STEPS)]
        assert all((each == known).all() for each, known in zip(hopping, expected, strict=True))
        again = other.submit(alone, 1).result()
        assert all((each == known).all() for each, known in zip(taken_over, again, strict=True))
