import copy

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler, HeunDiscreteScheduler
from diffusers.hooks.hooks import CacheContext

from pabtune.records.errors import ModelError
from pabtune.runtime.locator import MOST_CALLS, CallPosition, Locator
from tests.conftest import make_transformer

TRANSFORMER = make_transformer()


def call(locator: Locator, context=None, **kwargs) -> CallPosition:
    position = locator.locate("transformer", TRANSFORMER, context, (), kwargs)
    locator.advance(position, context)
    return position


def calls(locator: Locator, contexts, **kwargs) -> list[CallPosition]:
    return [call(locator, context, **kwargs) for context in contexts]


def test_the_context_tells_step_and_branch() -> None:
    locator = Locator(lambda: None)
    contexts = [CacheContext(name, step_index=step, num_inference_steps=2) for step in (0, 1) for name in ("a", "b")]
    positions = calls(locator, contexts)
    assert [(each.step, each.branch, each.ordinal) for each in positions] == [
        (0, "a", 0), (0, "b", 1), (1, "a", 0), (1, "b", 1),
    ]  # fmt: skip
    assert locator.schedule().steps == 2


def test_a_question_changes_nothing() -> None:
    """Asked once or often, before a call or after: the answer is the same until the locator is told to move on."""
    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(3)
    locator = Locator(lambda: scheduler)
    for _ in range(3):
        positions = [locator.locate("transformer", TRANSFORMER, None, (), {}) for _ in range(4)]
        assert positions == [call(locator)] * 4


def test_without_a_scheduler_a_step_that_comes_again_starts_a_loop() -> None:
    positions = calls(Locator(lambda: None), [CacheContext("a", step_index=step) for step in (0, 1, 0, 0, 1)])
    assert [position.is_new_loop for position in positions] == [True, False, True, True, False]


def test_setting_timesteps_starts_a_loop_and_leaves_the_scheduler_alone() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler()
    before = set(vars(scheduler))
    locator = Locator(lambda: scheduler)
    scheduler.set_timesteps(4)
    assert [call(locator).is_new_loop for _ in range(2)] == [True, False]
    scheduler.set_timesteps(4)
    assert [call(locator).is_new_loop for _ in range(2)] == [True, False]
    assert set(vars(scheduler)) - before <= {"num_inference_steps"}


def test_a_copy_of_the_scheduler_is_another_scheduler() -> None:
    """Servers copy it for each request; the original's loop goes on undisturbed."""
    scheduler = FlowMatchEulerDiscreteScheduler()
    locator = Locator(lambda: scheduler)
    scheduler.set_timesteps(8)
    call(locator)
    for copied in (copy.copy(scheduler), copy.deepcopy(scheduler)):
        copied.set_timesteps(5)
        assert (len(copied.timesteps), len(scheduler.timesteps)) == (5, 8)
    assert not call(locator).is_new_loop
    assert locator.schedule().steps == 8


@pytest.mark.parametrize("scheduler_class", [FlowMatchEulerDiscreteScheduler, HeunDiscreteScheduler])
def test_the_schedulers_step_index_tells_the_step(scheduler_class) -> None:
    """Schedulers of second order have a timestep, and so a step, for each call."""
    scheduler = scheduler_class()
    scheduler.set_timesteps(3)
    locator = Locator(lambda: scheduler)
    steps = []
    for timestep in scheduler.timesteps:
        steps.append(call(locator).step)
        scheduler.step(torch.zeros(1), timestep, torch.zeros(1))
    assert steps == list(range(len(scheduler.timesteps)))


def test_the_timestep_tells_the_step_where_nothing_else_does() -> None:
    scheduler = DDIMScheduler()
    scheduler.set_timesteps(5)
    locator = Locator(lambda: scheduler)
    steps = [call(locator, timestep=timestep.expand(2)).step for timestep in scheduler.timesteps]
    assert steps == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("context", [None, CacheContext("cond")])
@pytest.mark.parametrize("is_told", [True, False])
def test_a_loop_that_begins_inside_the_schedule_is_located_there(context, is_told) -> None:
    """Video-to-video: the first of 20 timesteps that is denoised is the 13th."""
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(20)
    if is_told:
        scheduler.set_begin_index(12)
    locator, steps = Locator(lambda: scheduler), []
    for timestep in scheduler.timesteps[12:]:
        steps.append(call(locator, context, timestep=timestep.expand(2).bfloat16()).step)
        scheduler.step(torch.zeros(1), timestep, torch.zeros(1))
    assert steps == list(range(12, 20))


def test_timesteps_on_another_scale_are_not_mistaken_for_late_ones() -> None:
    """A model that takes sigmas: 1.0 is the first step, not one at timestep 1 of 1000."""
    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(timesteps=[1000.0, 500.0, 5.0])
    assert call(Locator(lambda: scheduler), timestep=torch.tensor([1.0])).step == 0


def test_unnamed_calls_of_one_step_are_branches_of_their_own() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(2)
    positions = calls(Locator(lambda: scheduler), [None, None, None])
    assert [position.branch for position in positions] == ["all", "all#1", "all#2"]
    assert [position.ordinal for position in positions] == [0, 1, 2]


def test_no_source_of_steps_is_an_error() -> None:
    locator = Locator(lambda: None)
    with pytest.raises(ModelError, match="nothing tells the denoising step"):
        call(locator)
    with pytest.raises(ModelError, match="nothing tells the number"):
        locator.schedule()


def test_frames_that_are_denoised_by_copies_of_the_scheduler_are_told_by_their_timestep() -> None:
    """Diffusion forcing: the pipeline's own scheduler never steps; clean frames have small timesteps."""
    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(4)
    locator, context = Locator(lambda: scheduler), CacheContext("cond")
    positions = [
        call(locator, context, timestep=torch.tensor([[20.0, float(timestep)]]))
        for timestep in (*scheduler.timesteps[:3], scheduler.timesteps[2], scheduler.timesteps[3])
    ]
    assert [(each.step, each.branch) for each in positions] == [(step, "cond") for step in (0, 1, 2, 2, 3)]


@pytest.mark.parametrize("scheduler", [FlowMatchEulerDiscreteScheduler(), DDIMScheduler()])
def test_a_step_that_never_moves_on_is_an_error(scheduler) -> None:
    """A pipeline that steps no scheduler, with timesteps of its own: each call was one more branch of step 0, for ever."""
    scheduler.set_timesteps(30)
    locator = Locator(lambda: scheduler)
    timesteps = iter(torch.linspace(-2, -1, 30))
    with pytest.raises(ModelError, match="nothing tells the denoising step"):
        [call(locator, timestep=timestep[None]) for timestep in timesteps]
    assert len(list(timesteps)) == 30 - MOST_CALLS - 1
