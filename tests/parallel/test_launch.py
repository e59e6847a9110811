"""A process that fails, is killed or was told otherwise stops them all, soon, with one reason."""

import sys
import time
from pathlib import Path

import pytest

from pabtune.parallel.launch import launch
from pabtune.records.errors import ParallelError

ROOT = Path(__file__).parent.parent.parent
WORKER = Path(__file__).parent / "worker.py"
SECONDS = 60
"""30 are stated in docs/parallel.md for those that do not end by themselves; twice that, for importing torch before."""


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("raise", r"rank 1 stopped with code 1: .*broken on purpose"),
        ("kill", r"rank 1 stopped with code -9: .*SIGKILL"),
        ("disagree", r"rank 1 has another prompt than rank 0: 'a prompt of rank 1' instead of 'a prompt of rank 0'"),
    ],
)
def test_nothing_hangs(case, message, tmp_path, monkeypatch, capfd) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    began = time.monotonic()
    with pytest.raises(ParallelError, match=message):
        launch(2, [sys.executable, str(WORKER), str(tmp_path / "out.json"), case])
    assert time.monotonic() - began < SECONDS
