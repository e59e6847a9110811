"""Who is alive: processes that run, that ended, whose ids are used again, and those of other machines."""

import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest

from pabtune.tuning.workers import Patience, SignOfLife, Watch, Worker, heartbeat

NOW = Patience(grace_s=0.0, silence_s=0.0)
NEVER = Patience(grace_s=1e9, silence_s=1e9)
HERE = Worker.here()


@pytest.fixture
def process():
    """A process that waits until its input is closed."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
    yield child
    child.kill()
    child.wait()
    child.stdin.close()


def of(process: int, **changes) -> Worker:
    import psutil

    return replace(HERE, process=process, started=psutil.Process(process).create_time(), token="other", **changes)


def dead(worker: Worker | None, patience: Patience) -> bool:
    watch = Watch(HERE, patience)
    watch.observe({3: SignOfLife(worker=worker, heartbeat=0)})
    time.sleep(0.001)
    return watch.dead() == [3]


def test_documents_give_the_same_worker_back() -> None:
    assert Worker.from_document(HERE.to_document()) == HERE
    assert Worker.here().token != HERE.token


def test_a_process_of_this_machine_is_looked_at(process) -> None:
    """Fault 12: a worker that was killed is seen to be dead."""
    worker = of(process.pid)
    assert not dead(worker, NEVER)
    assert not dead(replace(worker, started=worker.started - 1), NEVER)  # the clock was set
    assert dead(replace(worker, started=worker.started - 60), NEVER)  # its id was used again
    process.kill()
    deadline = time.monotonic() + 30  # a busy machine takes its time to end it
    while not dead(worker, NEVER) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert dead(worker, NEVER)  # before anybody took note of its end
    process.wait()
    assert dead(worker, NEVER)


def test_a_worker_of_another_machine_is_dead_when_it_is_silent_for_long() -> None:
    """Fault 12: it was never revived."""
    foreign = replace(HERE, machine="elsewhere", process=1, token="other")
    assert not dead(foreign, NEVER)
    assert dead(foreign, NOW)


def test_a_trial_without_a_worker_is_dead_after_a_grace() -> None:
    """Fault 12: its worker was killed between asking and writing its name."""
    assert not dead(None, NEVER)
    assert not dead(None, replace(NOW, grace_s=1e9))
    assert dead(None, NOW)


def test_what_this_search_left_open_is_dead_but_not_what_another_in_this_process_has() -> None:
    assert dead(HERE, NEVER)
    assert not dead(Worker.here(), NEVER)


def test_signs_of_life_are_taken_by_the_clock_of_who_looks() -> None:
    """Only that they change counts; a trial that ended and came again starts anew."""
    foreign = replace(HERE, machine="elsewhere", token="other")
    watch = Watch(HERE, Patience(silence_s=0.05))
    for beat in range(8):
        watch.observe({3: SignOfLife(worker=foreign, heartbeat=beat)})
        assert watch.dead() == []
        time.sleep(0.02)
    time.sleep(0.06)
    watch.observe({3: SignOfLife(worker=foreign, heartbeat=7)})
    assert watch.dead() == [3]
    watch.observe({})
    assert watch.dead() == []


def test_a_heart_beats_until_the_work_is_over_even_if_a_beat_fails() -> None:
    beats, enough = [], threading.Event()

    def beat(count: int) -> None:
        beats.append(count)
        if count == 1:
            raise OSError("the database is locked")
        if count == 3:
            enough.set()

    with heartbeat(beat, 0.001):
        assert enough.wait(30)
    count = len(beats)
    assert beats == list(range(1, count + 1))
    time.sleep(0.01)
    assert len(beats) == count
