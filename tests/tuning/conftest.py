"""One profile of the small pipeline for all tests of this folder."""

import pytest

import pabtune
from pabtune.records.profiles import Profile
from tests.conftest import PROMPTS, STEPS, make_pipeline


@pytest.fixture(scope="session")
def profile() -> Profile:
    return pabtune.profile(make_pipeline(), PROMPTS, STEPS, name="small", batch_size=2)
