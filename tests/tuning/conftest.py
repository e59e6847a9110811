"""One profile and two recordings of the small pipeline for all tests of this folder."""

import pytest

import pabtune
from pabtune.records.profiles import Profile
from pabtune.runtime.targets import Target
from pabtune.tuning.generation import Settings
from pabtune.tuning.trajectories import Trajectories, record_trajectories
from tests.conftest import PROMPTS, STEPS, make_pipeline

SETTINGS = Settings(steps=STEPS, batch_size=2)


@pytest.fixture(scope="session")
def profile() -> Profile:
    return pabtune.profile(make_pipeline(), PROMPTS, STEPS, name="small", batch_size=2)


@pytest.fixture(scope="session")
def runs() -> list[Trajectories]:
    pipeline = make_pipeline()
    target = Target.of(pipeline)
    return [record_trajectories(pipeline, target, PROMPTS[index : index + 2], SETTINGS) for index in (0, 2)]
