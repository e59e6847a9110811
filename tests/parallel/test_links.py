"""Links are measured by real processes; the figures are those of the machine, so that only their sense is tested."""

import json

import pytest

from pabtune.records.links import Link
from tests.cli.test_sharing import call


def test_links_are_measured_and_serve_the_cost_model(tmp_path) -> None:
    out = tmp_path / "link.json"
    done = call("bench-links", "--gpus", "2", "--repeats", "2", "--out", str(out), "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    link = Link.load(out)
    assert told == link.to_document()
    assert 0 < link.seconds < 1
    assert 1e6 < link.bytes_per_second < 1e13
    rows = link.provenance["all_to_all"]
    assert rows[-1]["bytes"] == 2**25
    assert rows[-1]["seconds"] > rows[0]["seconds"]
    done = call(
        "cost", "open-sora-1.2", "--policy", "pab246", "--gpus", "1,8", "--device-tflops", "100", "--link", str(out)
    )
    assert done.returncode == 0, done.stderr
    assert "8 GPUs" in done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [(("--gpus", "1"), "is not in the range x>=2"), (("--out", "/proc/x.json"), "cannot write here")],
)
def test_mistakes_end_in_one_line(words, message, tmp_path) -> None:
    done = call("bench-links", "--out", str(tmp_path / "l.json"), *words)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
