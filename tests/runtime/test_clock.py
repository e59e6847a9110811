import copy

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler, HeunDiscreteScheduler
from diffusers.hooks.hooks import CacheContext

from pabtune.records.errors import ModelError
from pabtune.runtime.clock import Clock, noise_levels
from tests.conftest import make_transformer

TRANSFORMER = make_transformer()


def moments(clock: Clock, contexts, **kwargs):
    return [clock.read("transformer", TRANSFORMER, context, (), kwargs) for context in contexts]


def test_the_context_tells_step_and_branch() -> None:
    clock = Clock(lambda: None)
    contexts = [CacheContext(name, step_index=step, num_inference_steps=2) for step in (0, 1) for name in ("a", "b")]
    assert [(m.step, m.branch) for m in moments(clock, contexts)] == [(0, "a"), (0, "b"), (1, "a"), (1, "b")]
    assert clock.schedule().steps == 2


def test_without_a_scheduler_a_step_that_comes_again_starts_a_run() -> None:
    clock = Clock(lambda: None)
    runs = [m.run for m in moments(clock, [CacheContext("a", step_index=step) for step in (0, 1, 0, 0, 1)])]
    assert [runs.index(run) for run in runs] == [0, 0, 2, 3, 3]


def test_setting_timesteps_starts_a_run_and_unwatch_restores_the_scheduler() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler()
    clock = Clock(lambda: scheduler)
    first = moments(clock, [None])[0]
    scheduler.set_timesteps(4)
    scheduler.set_timesteps(4)
    second = moments(clock, [None])[0]
    assert first.run is not second.run
    clock.unwatch()
    assert "set_timesteps" not in vars(scheduler)


def test_the_schedulers_step_index_tells_the_step() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(3)
    clock = Clock(lambda: scheduler)
    steps = []
    for timestep in scheduler.timesteps:
        steps.append(moments(clock, [None])[0].step)
        scheduler.step(torch.zeros(1), timestep, torch.zeros(1))
    assert steps == [0, 1, 2]


def test_second_order_schedulers_have_a_step_per_call() -> None:
    scheduler = HeunDiscreteScheduler()
    scheduler.set_timesteps(3)
    clock = Clock(lambda: scheduler)
    steps = []
    for timestep in scheduler.timesteps:
        steps.append(moments(clock, [None])[0].step)
        scheduler.step(torch.zeros(1), timestep, torch.zeros(1))
    assert steps == list(range(len(scheduler.timesteps)))


def test_the_timestep_tells_the_step_where_nothing_else_does() -> None:
    scheduler = DDIMScheduler()
    scheduler.set_timesteps(5)
    clock = Clock(lambda: scheduler)
    steps = [moments(clock, [None], timestep=timestep.expand(2))[0].step for timestep in scheduler.timesteps]
    assert steps == [0, 1, 2, 3, 4]


def test_unnamed_calls_of_one_step_are_branches_of_their_own() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(2)
    clock = Clock(lambda: scheduler)
    assert [m.branch for m in moments(clock, [None, None, None])] == ["all", "all#1", "all#2"]


def test_noise_levels_are_sigmas_or_timesteps() -> None:
    flow = FlowMatchEulerDiscreteScheduler(shift=3.0)
    flow.set_timesteps(sigmas=np.linspace(1, 0.1, 10))
    np.testing.assert_allclose(noise_levels(flow), flow.timesteps.numpy() / 1000, atol=1e-5)
    ddim = DDIMScheduler()
    ddim.set_timesteps(5)
    np.testing.assert_allclose(noise_levels(ddim), ddim.timesteps.numpy() / 1000)


def test_no_source_of_steps_is_an_error() -> None:
    clock = Clock(lambda: None)
    with pytest.raises(ModelError, match="nothing tells the denoising step"):
        moments(clock, [None])
    with pytest.raises(ModelError, match="nothing tells the number"):
        clock.schedule()


def test_a_copy_of_a_watched_scheduler_is_not_watched() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler()
    clock = Clock(lambda: scheduler)
    scheduler.set_timesteps(4)
    run = moments(clock, [None])[0].run
    copied = copy.deepcopy(scheduler)
    copied.set_timesteps(7)
    assert len(copied.timesteps) == 7
    assert len(scheduler.timesteps) == 4
    assert moments(clock, [None])[0].run is run


def test_frames_that_are_denoised_by_copies_of_the_scheduler_are_told_by_their_timestep() -> None:
    """Diffusion forcing: the pipeline's own scheduler never steps; clean frames have small timesteps."""
    scheduler = FlowMatchEulerDiscreteScheduler()
    clock = Clock(lambda: scheduler)
    scheduler.set_timesteps(4)
    context = CacheContext("cond")
    found = [
        clock.read("transformer", TRANSFORMER, context, (), {"timestep": torch.tensor([[20.0, float(timestep)]])})
        for timestep in (*scheduler.timesteps[:3], scheduler.timesteps[2], scheduler.timesteps[3])
    ]
    assert [(moment.step, moment.branch) for moment in found] == [(step, "cond") for step in (0, 1, 2, 2, 3)]
