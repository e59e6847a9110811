"""Work that is done once, whoever asks for it, and that outlives whoever did it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pabtune.records.errors import StudyError
from pabtune.tuning.once import done_once
from tests.tuning.test_study import QUICK, ROOT, storages

CHILD = """
import os, sys, time
from pabtune.tuning.once import done_once
from pabtune.tuning.workers import Patience
storage, done, how = sys.argv[1:]
def work():
    with open(done, "a") as file: file.write(f"{os.getpid()}\\n")
    print("open", flush=True)
    time.sleep(600 if how == "hang" else 0.3)
    return {"by": os.getpid()}
print(done_once(storage, "work", work, how != "wait", Patience(poll_s=0.02))["by"], flush=True)
"""


@pytest.fixture(params=["journal", "sqlite"])
def storage(request, tmp_path) -> str:
    return storages(tmp_path)[request.param]


def start(storage: str, done: Path, how: str = "") -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, storage, str(done), how], stdout=subprocess.PIPE, text=True, cwd=ROOT,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )  # fmt: skip


def workers_in(done: Path) -> list[int]:
    return [int(line) for line in done.read_text().split()]


def test_of_three_that_ask_at_once_one_does_it_and_all_get_it(storage, tmp_path) -> None:
    done = tmp_path / "done"
    workers = [start(storage, done) for _ in range(3)]
    told = [worker.communicate(timeout=60)[0].split()[-1] for worker in workers]
    (by,) = workers_in(done)
    assert told == [str(by)] * 3
    assert done_once(storage, "work", lambda: pytest.fail("done already")) == {"by": by}


def test_what_a_killed_worker_began_another_one_begins_anew(storage, tmp_path) -> None:
    done = tmp_path / "done"
    dying = start(storage, done, "hang")
    assert dying.stdout.readline() == "open\n"
    waiting, other = start(storage, done, "wait"), start(storage, done)
    dying.send_signal(signal.SIGKILL)
    dying.communicate()
    told = [worker.communicate(timeout=60)[0].split()[-1] for worker in (waiting, other)]
    assert told == [str(other.pid)] * 2  # who may not begin waits for who may
    assert workers_in(done) == [dying.pid, other.pid]


def test_work_that_fails_is_begun_anew_by_who_asks_next(storage) -> None:
    def fails() -> None:
        raise StudyError("no")

    with pytest.raises(StudyError, match="no"):
        done_once(storage, "work", fails, patience=QUICK)
    assert done_once(storage, "work", lambda: [1], patience=QUICK) == [1]
    assert done_once(storage, "other", lambda: [2], patience=QUICK) == [2]
