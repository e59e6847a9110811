"""Two threads and one scheduler: one call is refused at once, the other's video is as ever."""

import threading
from concurrent.futures import ThreadPoolExecutor
from copy import copy, deepcopy

import pytest

import pabtune
from pabtune.models.shapes.pipeline import ShapesPipeline
from pabtune.records.errors import ModelError
from tests.conftest import STEPS, draw, pyramid

REFUSED = r"another thread is inside a call of this ShapesPipeline, or of one with the same scheduler"


def same_pipeline(pipeline) -> ShapesPipeline:
    return pipeline


def made_from_it(pipeline) -> ShapesPipeline:
    other = ShapesPipeline.from_pipe(pipeline)
    other.set_progress_bar_config(disable=True)
    return other


@pytest.mark.filterwarnings("ignore::pabtune.records.errors.PabtuneWarning")
@pytest.mark.parametrize("another", [same_pipeline, copy, made_from_it])
def test_the_second_of_two_threads_is_refused_in_the_middle_of_the_firsts_call(pipeline, another) -> None:
    refused = []
    with pabtune.broadcast(pipeline, pyramid()) as run, ThreadPoolExecutor(1) as threads:
        expected, counts = draw(pipeline), run.summary()

        def call_beside(pipe, step, timestep, arguments):
            if step in (0, STEPS // 2):
                with pytest.raises(ModelError, match=REFUSED):
                    threads.submit(draw, another(pipeline), seed=7).result()
                refused.append(step)
            return arguments

        assert (draw(pipeline, callback_on_step_end=call_beside) == expected).all()
        assert refused == [0, STEPS // 2]
        assert run.summary() == counts
        assert (threads.submit(draw, another(pipeline)).result() == expected).all() or another is made_from_it


def test_after_an_error_the_other_thread_may_call(pipeline) -> None:
    def fail(pipe, step, timestep, arguments):
        raise KeyboardInterrupt

    with pabtune.broadcast(pipeline, pyramid()), ThreadPoolExecutor(1) as threads:
        expected = draw(pipeline)
        with pytest.raises(KeyboardInterrupt):
            draw(pipeline, callback_on_step_end=fail)
        assert (threads.submit(draw, pipeline).result() == expected).all()


def test_a_copy_as_the_error_says_is_not_refused(pipeline) -> None:
    with pabtune.broadcast(pipeline, pyramid()), ThreadPoolExecutor(1) as threads:
        expected = draw(pipeline, seed=7)

        def call_beside(pipe, step, timestep, arguments):
            own = copy(pipeline)
            own.scheduler = deepcopy(pipeline.scheduler)
            if step == 2:
                drawn.append(threads.submit(draw, own, seed=7).result())
            return arguments

        drawn: list = []
        draw(pipeline, callback_on_step_end=call_beside)
        assert (drawn[0] == expected).all()


def test_pipelines_that_pabtune_is_not_attached_to_are_nobodys_business(pipeline) -> None:
    """Their class is watched while a policy is enabled on another pipeline of it; diffusers refuses nothing."""
    other = made_from_it(pipeline)
    other.scheduler = deepcopy(pipeline.scheduler)
    watched = pipeline.transformer
    other.transformer = deepcopy(watched)
    begun, ended = threading.Event(), threading.Event()

    def wait(pipe, step, timestep, arguments):
        begun.set()
        assert ended.wait(60)
        raise KeyboardInterrupt

    def call_aside() -> None:
        with pytest.raises(KeyboardInterrupt):
            draw(other, callback_on_step_end=wait)

    with pabtune.broadcast(pipeline, pyramid()), ThreadPoolExecutor(1) as threads:
        aside = threads.submit(call_aside)
        assert begun.wait(60)
        try:
            draw(copied_around(other))
        finally:
            ended.set()
        aside.result()


def copied_around(pipeline) -> ShapesPipeline:
    """A copy with the same scheduler."""
    return copy(pipeline)
