import pytest

from tests.cli.conftest import call


@pytest.mark.parametrize(
    ("words", "message"),
    [(("--gpus", "1"), "is not in the range x>=2"), (("--out", "/proc/x.json"), "cannot write here")],
)
def test_mistakes_end_in_one_line(words, message, tmp_path) -> None:
    done = call("bench-links", "--out", str(tmp_path / "l.json"), *words)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("device", ["meta", "warp", "cuda:99", "cpu:x", ""])
def test_what_is_no_device_is_refused_before_a_process_starts(pabtune, tmp_path, device) -> None:
    """Fault 23: on the meta device messages take no time: 546 GB per second."""
    out = tmp_path / "l.json"
    assert "device" in pabtune("bench-links", "--device", device, "--out", str(out)).refusal()
    assert not out.exists()
