"""The demo on several processes, as a newcomer starts it."""

import json

import pytest

from tests.cli.conftest import call


@pytest.mark.slow
def test_demo_parallel_tells_what_was_sent_and_predicted() -> None:
    done = call("demo-parallel", "--json")
    assert done.returncode == 0, done.stderr
    plain, fast = json.loads(done.stdout)["videos"]
    for row in (plain, fast):
        assert row["is_same"]
        assert row["error"] < 1e-5
        assert row["sent"] == row["predicted"]
    assert 0 < fast["sent"]["messages"] < plain["sent"]["messages"]
    assert done.stderr.count("messages (") == 2
