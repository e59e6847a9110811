import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

from pabtune.runtime.noise_levels import noise_levels, step_of_timestep
from tests.pipelines.cases import CASES, run


def test_noise_levels_are_sigmas_or_timesteps() -> None:
    flow = FlowMatchEulerDiscreteScheduler(shift=3.0)
    flow.set_timesteps(sigmas=np.linspace(1, 0.1, 10))
    np.testing.assert_allclose(noise_levels(flow), flow.timesteps.numpy() / 1000, atol=1e-5)
    ddim = DDIMScheduler()
    ddim.set_timesteps(5)
    np.testing.assert_allclose(noise_levels(ddim), ddim.timesteps.numpy() / 1000)


def test_timesteps_in_16_bits_are_found_and_others_are_not() -> None:
    timesteps = torch.linspace(1000, 20, 50)
    for step, timestep in enumerate(timesteps):
        assert step_of_timestep(timestep.bfloat16(), timesteps) == step
    assert step_of_timestep(torch.tensor([700.0, 1000.0]), timesteps) == 0
    assert step_of_timestep(torch.tensor([0.5]), timesteps) is None


@pytest.mark.filterwarnings("ignore:In CPU autocast")  # Mochi's, in float32
@pytest.mark.parametrize("name", sorted(CASES))
def test_the_noise_of_every_pipeline_falls(name, monkeypatch) -> None:
    """Mochi's scheduler counts its sigmas up; its windows and schedules were carried to the wrong end of a run."""
    pipeline, levels = CASES[name].build(), list[tuple[float, ...]]()
    pipeline.set_progress_bar_config(disable=True)

    def note(self, *args, **kwargs) -> None:
        levels.append(noise_levels(self))
        raise Stopped

    monkeypatch.setattr(type(pipeline.scheduler), "step", note)
    with pytest.raises(Stopped):
        run(pipeline, name)
    assert all(0 <= level <= 1 for level in levels[0])
    assert list(levels[0]) == sorted(levels[0], reverse=True)
    assert levels[0][0] > 0.5


class Stopped(Exception):
    """The first step is enough."""
