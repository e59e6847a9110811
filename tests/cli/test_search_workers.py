"""Several workers of one search: as many trials as asked for, whoever dies, and one answer."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import psutil
import pytest
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from pabtune.records.policies import Policy
from tests.cli.conftest import ROOT, start, write_prompts


@pytest.fixture
def words(short_profile, tmp_path) -> tuple[str, ...]:
    return (
        "search", short_profile, "--budget", "shapes>=-80", "--prompts", write_prompts(tmp_path / "many.jsonl", 18, 6),
        "--out", str(tmp_path / "found.json"), "--logdir", str(tmp_path / "log"), "--floor", "none", "--workers", "2",
    )  # fmt: skip


def trials_in(folder: Path, *states: TrialState) -> list[optuna.trial.FrozenTrial]:
    """Trials of the search's study, past its workers."""
    if not (folder / "log" / "study.journal").exists():
        return []
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(folder / "log" / "study.journal")))
    names = [name for name in optuna.get_all_study_names(storage) if name.startswith("short-")]
    return [
        each for name in names for each in optuna.load_study(study_name=name, storage=storage).get_trials(states=states)
    ]


def wait_for(what, seconds: float = 120):
    """The first true answer."""
    end = time.monotonic() + seconds
    while not (answer := what()):
        assert time.monotonic() < end
        time.sleep(0.1)
    return answer


def check_full(folder: Path, count: int) -> None:
    """Exactly so many finished trials, none left open, and no known policy tried twice."""
    complete = trials_in(folder, TrialState.COMPLETE)
    assert len(complete) == count
    assert not trials_in(folder, TrialState.RUNNING)
    origins = [trial.user_attrs["origin"] for trial in complete if "origin" in trial.user_attrs]
    assert len(origins) == len(set(origins)) > 0


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--workers", "0"), "'--workers': 0 is not in the range x>=1"),
        (("--workers", "100000"), "each worker needs a device of its own, but for --workers 100000 there are"),
        (
            ("--device", "cuda:0"),
            "each worker takes a device of its own, but --device is cuda:0; with --workers 2 say cuda",
        ),
        (("--videos", "400"), "--videos 400 is counted exactly by one worker alone, but --workers is 2"),
    ],
)
def test_workers_that_cannot_be_are_refused(pabtune, words, tmp_path, more, told) -> None:
    assert told in pabtune(*words, *more).refusal()
    assert not (tmp_path / "found.json").exists()


def test_more_workers_than_gpus_are_refused(pabtune, words) -> None:
    import torch

    count = torch.cuda.device_count()
    workers = max(2, count + 1)
    line = pabtune(*words, "--device", "cuda", "--workers", str(workers)).refusal()
    assert f"for --workers {workers} there are {count} CUDA devices" in line


@pytest.mark.slow
def test_one_worker_says_where_to_look(pabtune, words, tmp_path) -> None:
    done = pabtune(*words, "--trials", "2", "--workers", "1")
    assert done.returncode == 1
    log = tmp_path / "log"
    assert f"trials: optuna-dashboard {log}/study.journal    curves: tensorboard --logdir {log}" in done.stderr
    place = Policy.load(tmp_path / "found.json").evidence["measured_on"]
    assert place == {"device": "cpu", "host": os.uname().nodename}


@pytest.mark.slow
def test_two_workers_end_with_what_was_asked_for_and_judge_once(words, tmp_path) -> None:
    """First trials, reference videos and the verdict: each once."""
    done = start(*words, "--trials", "7", "--json")
    out, err = done.communicate(timeout=300)
    assert done.returncode == 1, err  # undecided on so few prompts
    document = json.loads(out)
    assert (document["trials"], document["verdict"]) == (7, "undecided")
    assert json.loads((tmp_path / "found.json").read_text())["evidence"]["looks"] == 1
    check_full(tmp_path, 7)
    workers = {trial.user_attrs["worker"]["process"] for trial in trials_in(tmp_path, TrialState.COMPLETE)}
    assert len(workers) == 2
    assert err.count("verdict:") == err.count("policy ->") == err.count("optuna-dashboard") == 1
    references = list((tmp_path / "log" / "references").glob("*.npy"))
    assert len(references) == len({path.read_bytes() for path in references})


@pytest.mark.slow
def test_a_killed_worker_starts_again_and_its_trial_is_tried_again(words, tmp_path) -> None:
    done = start(*words, "--trials", "9")
    trial = wait_for(lambda: [each for each in trials_in(tmp_path, TrialState.RUNNING) if "worker" in each.user_attrs])[
        0
    ]
    os.kill(trial.user_attrs["worker"]["process"], signal.SIGKILL)
    _, err = done.communicate(timeout=300)
    assert done.returncode == 1, err
    assert err.count("a worker died: all were started again (time 1)") == 1
    check_full(tmp_path, 9)
    dropped = trials_in(tmp_path, TrialState.FAIL)
    assert trial.number in {each.number for each in dropped}
    tried = [each.params for each in trials_in(tmp_path, TrialState.COMPLETE)]
    assert trial.params in tried


@pytest.mark.slow
def test_an_interrupt_ends_all_workers_soon_and_the_same_command_resumes(words, tmp_path) -> None:
    done = start(*words, "--trials", "9")
    wait_for(lambda: len(trials_in(tmp_path, TrialState.COMPLETE)) >= 2)
    children = psutil.Process(done.pid).children(recursive=True)
    began = time.monotonic()
    done.send_signal(signal.SIGINT)
    _, err = done.communicate(timeout=60)
    assert time.monotonic() - began < 15
    assert done.returncode == 130
    assert "the same command resumes a search or a comparison" in err
    assert "Traceback" not in err
    assert len(children) >= 2
    assert not [each for each in children if each.is_running()]
    assert not trials_in(tmp_path, TrialState.RUNNING)
    before = {each.number for each in trials_in(tmp_path, TrialState.COMPLETE)}
    again = start(*words, "--trials", "9")
    _, err = again.communicate(timeout=300)
    assert again.returncode == 1, err
    check_full(tmp_path, 9)
    assert before < {each.number for each in trials_in(tmp_path, TrialState.COMPLETE)}
    assert re.search(r"study short-\w+: 9 trials", err)


@pytest.mark.slow
def test_the_example_runs_with_two_workers(short_profile, tmp_path) -> None:
    program = tmp_path / "pabtune"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{ROOT / "cli.py"}" "$@"\n')
    program.chmod(0o755)
    out, log = tmp_path / "found.json", str(tmp_path / "log")
    values = {
        "PABTUNE": str(program),
        "WORKERS": "2",
        "DEVICE": "cpu",
        "BUDGET": "shapes>=-80",
        "PYTHONPATH": str(ROOT),
    }
    more = (
        "--prompts",
        write_prompts(tmp_path / "many.jsonl", 18, 6),
        "--floor",
        "none",
        "--trials",
        "3",
        "--logdir",
        log,
    )
    done = subprocess.run(
        ["sh", str(ROOT / "examples" / "search_workers.sh"), short_profile, str(out), *more],
        env={**os.environ, **values, "STORAGE": f"sqlite:///{tmp_path}/study.db"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr  # undecided on so few prompts
    assert out.exists()
    assert f"optuna-dashboard sqlite:///{tmp_path}/study.db" in done.stderr


@pytest.mark.slow
def test_what_is_refused_in_a_worker_is_told_once(words) -> None:
    """A score that fails is found out by every worker."""
    words = [*words[:2], "--budget", "tests.cli.test_search:fails>=-1", *words[4:], "--trials", "2"]
    done = start(*words)
    out, err = done.communicate(timeout=300)
    assert (done.returncode, out) == (2, "")
    assert err.count("error: ") == 1
    assert "ZeroDivisionError: no frames in" in err


@pytest.mark.slow
def test_variants_are_searched_by_all_workers(words, tmp_path) -> None:
    """Followers learn from the leader how the general policy keeps its outputs, which the names of the studies hold."""
    many = write_prompts(tmp_path / "more.jsonl", 36, 6)
    done = start(*words, "--prompts", many, "--trials", "3", "--per-content", "--json")
    out, err = done.communicate(timeout=400)
    assert done.returncode in (0, 1), err
    document = json.loads(out)
    assert set(document["variants"]) == {"fast", "slow", "still"}
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(tmp_path / "log" / "study.journal")))
    names = [name for name in optuna.get_all_study_names(storage) if name.startswith("short-")]
    assert len(names) == 4
