import copy
import functools
import inspect
import pickle
from threading import Thread

import pytest

import pabtune
from pabtune.models.shapes.pipeline import ShapesPipeline
from pabtune.runtime.pipeline_calls import OBSERVERS, current_call, observe
from tests.conftest import draw, make_pipeline, pyramid


class Notes:
    """Takes note of the calls that it is told of."""

    def __init__(self) -> None:
        self.begun, self.ended, self.during = [], [], []

    def begin_call(self, call) -> None:
        self.begun.append(call)
        assert current_call() is call

    def end_call(self, call) -> None:
        self.ended.append(call)


def test_observers_are_told_of_calls_also_of_those_that_fail(pipeline) -> None:
    notes, original = Notes(), ShapesPipeline.__call__
    end = observe(pipeline, notes)
    draw(pipeline, num_inference_steps=2)
    with pytest.raises(RuntimeError):
        draw(pipeline, callback_on_step_end=fail)
    assert notes.begun == notes.ended
    assert [call.pipeline for call in notes.begun] == [pipeline] * 2
    assert notes.begun[0].arguments["num_inference_steps"] == 2
    assert inspect.signature(ShapesPipeline.__call__) == inspect.signature(original)
    with pytest.raises(TypeError, match="unexpected keyword"):
        pipeline("a red square", number_of_steps=2)
    assert len(notes.begun) == 2
    end()
    assert ShapesPipeline.__call__ is original
    assert OBSERVERS not in vars(pipeline)


def fail(*_) -> None:
    raise RuntimeError("stopped by the user")


def test_the_innermost_call_of_a_thread_is_the_current_one(pipeline) -> None:
    other, seen = make_pipeline(1), []
    ends = [observe(each, Notes()) for each in (pipeline, other)]

    def look_and_draw(pipe, step, timestep, arguments):
        seen.append(current_call().pipeline)
        if step == 1 and pipe is pipeline:
            draw(other, num_inference_steps=1, callback_on_step_end=look_and_draw)
            seen.append(current_call().pipeline)
            thread = Thread(target=lambda: seen.append(current_call()))
            thread.start()
            thread.join()
        return arguments

    draw(pipeline, num_inference_steps=2, callback_on_step_end=look_and_draw)
    assert seen == [pipeline, pipeline, other, pipeline, None]
    assert current_call() is None
    for end in ends:
        end()


def test_shallow_copies_are_observed_and_deep_ones_are_not(pipeline) -> None:
    notes = Notes()
    end = observe(pipeline, notes)
    shallow, deep = copy.copy(pipeline), copy.deepcopy(pipeline)
    for each in (shallow, deep):
        draw(each, num_inference_steps=1)
    assert [call.pipeline for call in notes.begun] == [shallow]
    end()


def test_a_class_is_as_before_when_the_last_observer_is_gone(pipeline) -> None:
    class Child(ShapesPipeline):
        """Inherits its call."""

    child = Child(pipeline.text_encoder, pipeline.transformer, pipeline.scheduler)
    child.set_progress_bar_config(disable=True)
    notes, original = Notes(), ShapesPipeline.__call__
    ends = [observe(each, notes) for each in (child, pipeline, child)]
    draw(child, num_inference_steps=1)
    assert len(notes.begun) == 2  # observed twice, called once
    for end in ends:
        end()
    assert "__call__" not in vars(Child)
    assert ShapesPipeline.__call__ is original


def test_a_wrapper_that_others_put_around_the_call_stays(pipeline, monkeypatch) -> None:
    """`functools.wraps` copies the marks of ours, so that it was taken for ours, and taken off with the last observer."""
    monkeypatch.setattr(ShapesPipeline, "__call__", ShapesPipeline.__call__)
    counted, notes, ends = [], Notes(), [observe(pipeline, Notes())]
    ours = ShapesPipeline.__call__

    @functools.wraps(ours)
    def counting(*args, **kwargs):
        counted.append(args)
        return ours(*args, **kwargs)

    ShapesPipeline.__call__ = counting
    ends.append(observe(pipeline, notes))
    draw(pipeline, num_inference_steps=1)
    assert (len(counted), len(notes.begun), len(notes.ended)) == (1, 1, 1)
    for end in ends:
        end()
    assert ShapesPipeline.__call__ is counting
    draw(pipeline, num_inference_steps=1)
    assert (len(counted), len(notes.begun)) == (2, 1)


def test_a_pipeline_under_a_policy_can_be_pickled(pipeline) -> None:
    scheduler = pickle.dumps(pipeline.scheduler)
    with pabtune.broadcast(pipeline, pyramid()):
        assert len(pickle.dumps(pipeline.scheduler)) == len(scheduler)


def test_a_call_whose_observer_fails_at_its_end_is_over(pipeline) -> None:
    """With warnings as errors the next calls of the thread were taken for parts of a dead one."""

    class Failing(Notes):
        def end_call(self, call) -> None:
            super().end_call(call)
            raise RuntimeWarning("as `-W error` does")

    observers = [Notes(), Failing(), Notes()]
    ends = [observe(pipeline, each) for each in observers]
    for count in (1, 2):
        with pytest.raises(RuntimeWarning):
            draw(pipeline, num_inference_steps=2)
        assert current_call() is None
        assert [len(each.ended) for each in observers] == [count] * 3
    for end in ends:
        end()
