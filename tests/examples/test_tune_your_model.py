import json

import pytest

from pabtune.records.policies import Policy
from pabtune.records.profiles import Profile
from tests.examples.running import run_example


@pytest.mark.slow
def test_a_profile_a_policy_and_the_engines_file_are_written(tmp_path) -> None:
    words = ("--steps", "10", "--count", "18", "--trials", "2", "--budget", "shapes>=-80", "--out", "tuned")
    told = run_example("tune_your_model.py", *words, folder=tmp_path).splitlines()
    assert told[0].startswith("2 trials, ")
    assert "undecided" in told[0]  # on so few prompts
    found, profile = Policy.load(tmp_path / "tuned" / "policy.json"), Profile.load(tmp_path / "tuned" / "profile.json")
    assert found.made_for.steps == profile.steps == 10
    assert found.rules
    (written,) = (tmp_path / "tuned").glob("cache-dit.*")
    assert "steps_computation_mask" in written.read_text()
    assert json.loads((tmp_path / "tuned" / "policy.json").read_text())["evidence"]
