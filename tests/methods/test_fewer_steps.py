"""Fewer steps, in the pipeline's spacing and in the best one."""

from itertools import combinations, pairwise

import numpy as np
import pytest

from pabtune.methods.fewer_steps import BestSpacing, FewerSteps, leap_errors, shortest_path
from pabtune.records.policies import Policy
from pabtune.records.rules import Rule
from pabtune.runtime.engine import broadcast
from pabtune.runtime.targets import Target
from pabtune.tuning.generation import Settings
from pabtune.tuning.trajectories import record_trajectories
from tests.conftest import PROMPTS, draw, make_pipeline
from tests.pipelines.cases import CASES

STEPS = 8


@pytest.mark.parametrize("count", [1, 2, 4, 7, 8])
def test_the_path_is_the_shortest_of_all(count) -> None:
    errors = np.random.default_rng(count).random((8, 9))
    paths = [(0, *rest) for rest in combinations(range(1, 8), count - 1)]
    lengths = {path: sum(errors[a, b] for a, b in pairwise((*path, 8))) for path in paths}
    assert lengths[shortest_path(errors, count)] == pytest.approx(min(lengths.values()))


def test_a_run_over_fewer_of_the_noise_levels_is_a_run_that_holds_whole_calls() -> None:
    """Euler's method over flow matching: the scheduler itself, with a subset of the full run's noise levels."""
    pipeline, made = make_pipeline(), (0, 2, 3, 6)
    with broadcast(pipeline, Policy(name="spacing", rules=(Rule(kind="transformer", compute=made),))):
        held = draw(pipeline)
    set_timesteps = pipeline.scheduler.set_timesteps
    uniform = np.linspace(1, 1 / STEPS, STEPS)[list(made)]
    pipeline.scheduler.set_timesteps = lambda **arguments: set_timesteps(**arguments | {"sigmas": uniform})
    fewer = draw(pipeline, num_inference_steps=len(made))
    np.testing.assert_allclose(held, fewer, atol=1e-5)


def test_the_error_of_a_leap_is_that_of_the_latents() -> None:
    pipeline = make_pipeline()
    run = record_trajectories(pipeline, Target.of(pipeline), PROMPTS[:2], Settings(steps=STEPS, batch_size=2))
    errors = leap_errors(run)
    sigmas = [*pipeline.scheduler.sigmas.tolist()]
    straight = run.latents[2] + (run.latents[3] - run.latents[2]) / (sigmas[4] - sigmas[3]) * (sigmas[6] - sigmas[3])
    assert errors[3, 6] == pytest.approx(float((straight - run.latents[5]).square().mean()), rel=1e-3)
    assert errors[3, 4] == pytest.approx(0.0, abs=1e-12)
    assert np.isinf(errors[3, 3])


def test_other_schedulers_are_told_apart_by_name() -> None:
    assert "UniPCMultistepScheduler" in BestSpacing().misfit(Target.of(CASES["wan-2.1"].build()))
    assert BestSpacing().misfit(Target.of(make_pipeline())) is None


def test_a_share_of_the_steps_is_made() -> None:
    assert FewerSteps().at(0.63, None, 30) == Policy(name="steps:19", steps=19)
    calibration = {"15": list(range(0, 30, 2)), "30": list(range(30))}
    assert BestSpacing().at(0.5, calibration, 30).rules[0].compute == tuple(range(0, 30, 2))
    assert BestSpacing().at(1.0, calibration, 30).rules == ()
