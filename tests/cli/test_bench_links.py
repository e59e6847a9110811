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
