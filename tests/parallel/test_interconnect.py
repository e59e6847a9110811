"""Links are measured by real processes; the figures are those of the machine, so that only their sense is tested."""

import json

import pytest

from pabtune.records.interconnects import Interconnect
from tests.cli.conftest import call


@pytest.mark.slow
def test_links_are_measured_and_serve_the_cost_model(tmp_path) -> None:
    out = tmp_path / "link.json"
    done = call("bench-links", "--gpus", "2", "--repeats", "2", "--out", str(out), "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    link = Interconnect.load(out)
    assert told == link.to_document()
    assert 0 < link.latency_s < 1
    assert 1e6 < link.bytes_per_second < 1e13
    rows = link.provenance["all_to_all"]
    assert rows[-1]["bytes"] == 2**25
    assert rows[-1]["seconds"] > rows[0]["seconds"]
    done = call(
        "cost", "open-sora-1.2", "--policy", "pab246", "--gpus", "1,8", "--device-tflops", "100", "--link", str(out)
    )
    assert done.returncode == 0, done.stderr
    assert "8 GPUs" in done.stdout
