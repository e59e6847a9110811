"""A process that fails, is killed or was told otherwise stops them all, soon, with one reason."""

import json
import sys
import time
from pathlib import Path

import pytest
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from pabtune.parallel.launch import MOST_RESTARTS, first_failure, launch, launch_workers
from pabtune.parallel.mesh import LOST
from pabtune.records.errors import ParallelError
from tests.parallel.pool import ROOT, WORKER

SECONDS = 60
"""30 are stated in docs/parallel.md for those that do not end by themselves; twice that, for importing torch before."""


@pytest.mark.parametrize(
    ("case", "message"),
    [
        pytest.param("raise", r"rank 1 stopped with code (1|-15): .*broken on purpose", marks=pytest.mark.slow),
        ("kill", r"rank 1 stopped with code -9: .*SIGKILL"),
        pytest.param(
            "disagree",
            r"rank 1 has another prompt than rank 0: 'a prompt of rank 1' instead of 'a prompt of rank 0'",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_nothing_hangs(case, message, tmp_path, monkeypatch, capfd) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    began = time.monotonic()
    with pytest.raises(ParallelError, match=message):
        launch(2, [sys.executable, str(WORKER), str(tmp_path / "out.json"), case])
    assert time.monotonic() - began < SECONDS


def failed(path: Path, exitcode: int, reason: str | None, timestamp: int) -> ProcessFailure:
    """As torch reads it of a process that failed."""
    if reason is not None:
        extra = {"py_callstack": "", "timestamp": str(timestamp)}
        path.write_text(json.dumps({"message": {"message": reason, "extraInfo": extra}}))
    failure = ProcessFailure(0, 1, exitcode, str(path))
    failure.timestamp = timestamp
    return failure


@pytest.mark.parametrize(
    ("first", "others"),
    [
        ((-9, None, 8), [(2, f"{LOST}: connection closed", 7), (-15, f"{LOST}: connection closed", 7)]),
        ((1, "broken on purpose", 7), [(2, f"{LOST}: connection closed", 7), (-15, None, 7)]),
        ((1, None, 7), [(-15, None, 6)]),
        ((-15, None, 8), [(2, f"{LOST}: connection closed", 7)]),
        ((2, "wrong policy", 6), [(2, "wrong prompt", 7)]),
    ],
)
def test_blame_falls_on_who_failed_first_not_on_who_lost_it(first, others, tmp_path) -> None:
    """Also where the others told their reason earlier, or have the lower rank."""
    rows = [*others, first]
    failures = {rank: failed(tmp_path / str(rank), *row) for rank, row in enumerate(rows)}
    assert first_failure(failures)[0] == len(others)


CASES = """
import os, signal, sys, time
from pathlib import Path
from pabtune.parallel.process import has_outcome, leave_outcome, rank, restarts
case, folder = sys.argv[1], Path(sys.argv[2])
(folder / f"{rank()}-{restarts()}").touch()
if has_outcome(): sys.exit(0)
while not (folder / f"0-{restarts()}").exists(): time.sleep(0.01)
if rank() == 1 and (case == "always" or (case == "once" and not restarts())):
    os.kill(os.getpid(), signal.SIGKILL)
if case == "refused":
    if rank() == 1: sys.exit(leave_outcome(2, "no such device"))
    time.sleep(600)
if case == "always" or (case == "once" and not restarts()): time.sleep(600)
sys.exit(leave_outcome(1))
"""


@pytest.fixture
def run_workers(tmp_path, monkeypatch):
    """Launches two workers; returns the answer, or its refusal, and which of them were started how often."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))

    def run(case: str) -> tuple[int | str, set[str]]:
        try:
            answer = launch_workers(2, [sys.executable, "-c", CASES, case, str(tmp_path)])
        except ParallelError as error:
            answer = str(error)
        return answer, {path.name for path in tmp_path.iterdir()}

    return run


def test_if_a_worker_dies_all_are_started_again(run_workers) -> None:
    assert run_workers("once") == (1, {"0-0", "1-0", "0-1", "1-1"})


@pytest.mark.slow
def test_a_worker_that_always_dies_is_given_up(run_workers) -> None:
    answer, started = run_workers("always")
    assert answer.startswith("rank 1 stopped with code -9")
    assert started == {f"{rank}-{start}" for rank in (0, 1) for start in range(1 + MOST_RESTARTS)}


def test_a_refusal_of_one_worker_ends_all_and_is_not_tried_again(run_workers) -> None:
    assert run_workers("refused") == ("worker 1: no such device", {"0-0", "1-0", "0-1", "1-1"})
