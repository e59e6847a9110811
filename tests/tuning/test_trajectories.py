"""Recording full runs of the small pipeline."""

import numpy as np
import pytest
import torch

from pabtune.runtime.targets import Target
from pabtune.tuning.generation import Settings, generate
from pabtune.tuning.trajectories import record_trajectories
from tests.conftest import PROMPTS, STEPS, make_pipeline
from tests.tuning.conftest import SETTINGS


def test_a_recording_finds_guidance_and_scheduler(runs) -> None:
    """Guidance 4 is 4 times the conditional branch less 3 times the other; Euler's steps keep all of the latents."""
    scheduler = make_pipeline().scheduler
    scheduler.set_timesteps(sigmas=np.linspace(1, 1 / STEPS, STEPS))
    steps = -np.diff(scheduler.sigmas.numpy())
    for run in runs:
        assert run.mixture == pytest.approx((4.0, -3.0), abs=1e-3)
        assert run.keeps == pytest.approx(np.ones(STEPS), abs=1e-4)
        assert run.rates[1:] == pytest.approx(steps[1:], rel=1e-3)
        assert len(run.latents) == len(run.outputs) == STEPS
    plain = generate(make_pipeline(), PROMPTS[:2], SETTINGS)
    assert all((a == b).all() for a, b in zip(runs[0].generation.videos, plain.videos, strict=True))


def test_branches_in_calls_of_their_own_are_mixed_alike(runs) -> None:
    pipeline = make_pipeline()
    settings = Settings(steps=STEPS, batch_size=2, arguments={"batched_guidance": False})
    run = record_trajectories(pipeline, Target.of(pipeline), PROMPTS[:2], settings)
    assert run.mixture == pytest.approx((4.0, -3.0), abs=1e-3)
    assert torch.allclose(run.outputs[3], runs[0].outputs[3], atol=1e-3)
