"""Studies without a model: outcomes are arithmetic, so that what is tested is who tries what, and what survives a death."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from pabtune.records.errors import StudyError
from pabtune.records.policies import Policy
from pabtune.records.trials import Candidate, Measurement, Outcome
from pabtune.tuning.space import Space
from pabtune.tuning.study import SharedStudy
from pabtune.tuning.workers import Patience, Worker
from tests.records.test_profiles import make_profile

ROOT = Path(__file__).parents[2]
QUICK = Patience(grace_s=0.2, heartbeat_s=0.05, silence_s=0.5, poll_s=0.02)
FIRST = len({tuple(values.items()) for _, values in Space(make_profile(12)).first_trials()})


def open_study(storage: str, patience: Patience = QUICK, seed: int = 0) -> SharedStudy:
    return SharedStudy(storage, "study", Space(make_profile(12)), "p", seed, patience=patience)


def look_into(storage: str) -> optuna.Study:
    """The study, past its workers."""
    return open_study(storage)._study


def try_out(policy: Policy, time_to_beat: float | None = None) -> Outcome:
    """Broadcasting more takes less time and loses more."""
    saved = sum(1 - 1 / rule.range for rule in policy.rules) / 2
    measured = Measurement(
        prompts=4, seconds=1 - saved, psnr_db=60 - 40 * saved, drop=saved, drop_upper=saved, over_budget=saved - 0.3,
        under_floor_db=None,
    )  # fmt: skip
    return Outcome(status="complete", predicted_time=1 - saved, compute_fraction=1 - saved, measured=measured)


def storages(folder: Path) -> dict[str, str]:
    return {"journal": str(folder / "study.journal"), "sqlite": f"sqlite:///{folder}/study.db"}


@pytest.fixture(params=["journal", "sqlite"])
def storage(request, tmp_path) -> str:
    return storages(tmp_path)[request.param]


CHILD = """
import os, sys, time
import optuna
from pabtune.tuning.workers import Patience
from tests.tuning.test_study import QUICK, open_study, try_out
storage, trials, how, at = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
study = open_study(storage, Patience() if how == "patient" else QUICK)
count = 0
def counted():
    global count
    count += 1
    return count == at
ask, suggest = optuna.Study.ask, optuna.Trial._suggest
def dying_ask(self, *args, **values):
    trial = ask(self, *args, **values)
    if counted(): os._exit(9)
    return trial
def dying_suggest(self, name, distribution):
    if counted(): os._exit(9)
    return suggest(self, name, distribution)
if how == "ask": optuna.Study.ask = dying_ask
if how == "suggest": optuna.Trial._suggest = dying_suggest
def tried(policy, time_to_beat):
    if how == "try" and counted():
        print("open", flush=True); time.sleep(600)
    return try_out(policy, time_to_beat)
study.run(tried, trials, lambda own, every: print(own.number, flush=True))
"""


def start(storage: str, trials: int, how: str = "", at: int = 0) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, storage, str(trials), how, str(at)], stdout=subprocess.PIPE, text=True, cwd=ROOT,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )  # fmt: skip


def finished(storage: str) -> list[optuna.trial.FrozenTrial]:
    return look_into(storage).get_trials(states=(TrialState.COMPLETE,))


def check_full(storage: str, trials: int) -> None:
    """Exactly so many finished trials, nothing left open, and each first trial tried once."""
    study = look_into(storage)
    complete = study.get_trials(states=(TrialState.COMPLETE,))
    assert len(complete) == trials
    assert not study.get_trials(states=(TrialState.RUNNING,))
    origins = [trial.user_attrs["origin"] for trial in complete if "origin" in trial.user_attrs]
    assert len(origins) == len(set(origins)) >= min(trials, FIRST) - len(waiting(study))


def waiting(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    return study.get_trials(states=(TrialState.WAITING,))


def test_a_study_tries_the_known_ones_first_and_ends_with_what_was_asked_for(storage) -> None:
    told: list[tuple[int, int]] = []

    def on_trial(own: Candidate, every: Sequence[Candidate]) -> None:
        assert own in every
        told.append((own.number, len(every)))

    study = open_study(storage)
    study.run(try_out, FIRST + 2, on_trial)
    assert told == [(number, number + 1) for number in range(FIRST + 2)]
    origins = [candidate.origin for candidate in study.candidates()]
    assert origins[:4] == ["no broadcast", "preset pab246", "preset pab357", "preset pab579"]
    assert origins[FIRST - 1 :][1:] == ["sampler", "sampler"]
    check_full(storage, FIRST + 2)
    json.dumps([candidate.outcome.to_document() for candidate in study.candidates()])


def test_candidates_are_built_once(storage, monkeypatch) -> None:
    built = []
    policy = Space.policy
    monkeypatch.setattr(Space, "policy", lambda self, *args: built.append(1) or policy(self, *args))
    study = open_study(storage)
    study.run(try_out, 8)
    assert len(built) == 2 * 8  # to be tried, and as a candidate
    first = study.candidates()
    assert all(again is before for again, before in zip(study.candidates(), first, strict=True))


@pytest.mark.parametrize(
    ("how", "at"),
    [
        pytest.param("ask", 1, marks=pytest.mark.slow),
        ("ask", 3),
        pytest.param("suggest", 3, marks=pytest.mark.slow),
        ("try", 3),
    ],
)
def test_a_worker_killed_with_an_open_trial_leaves_the_study_whole(storage, how, at) -> None:
    """Fault 12: between asking and signing, while parameters are written, while it is tried; then somebody resumes."""
    dying = start(storage, 50, how, at)
    if how == "try":
        while dying.stdout.readline() not in ("open\n", ""):
            pass
        dying.send_signal(signal.SIGKILL)
    dying.communicate()
    assert dying.returncode == (-signal.SIGKILL if how == "try" else 9)
    before = {trial.number for trial in finished(storage)}
    assert len(look_into(storage).get_trials(states=(TrialState.RUNNING,))) == 1
    numbers: list[int] = []
    study = open_study(storage)
    study.run(try_out, 6, lambda own, _: numbers.append(own.number))
    assert not before & set(numbers)
    assert len(before) + len(numbers) == 6
    assert before <= {candidate.number for candidate in study.candidates()}
    check_full(storage, 6)


def test_a_running_worker_takes_over_from_one_that_dies_beside_it(storage) -> None:
    """Fault 12: all that is missing is open in the one that dies: the other waits for it."""
    dying = start(storage, 3, "try", 1)
    assert dying.stdout.readline() == "open\n"
    other = start(storage, 3)
    numbers = [int(other.stdout.readline()) for _ in range(2)]
    with pytest.raises(subprocess.TimeoutExpired):
        other.wait(timeout=1)
    dying.kill()
    dying.communicate()
    rest = other.communicate(timeout=60)[0].split()
    assert other.returncode == 0
    assert len(numbers) + len(rest) == 3
    check_full(storage, 3)


@pytest.mark.parametrize("signed", [True, False])
def test_a_dead_worker_of_another_machine_is_revived(storage, signed) -> None:
    """Fault 12: also one that was killed before it signed."""
    study = open_study(storage)
    trial = study._study.ask(fixed_distributions=study._distributions)
    if signed:
        foreign = replace(Worker.here(), machine="another container", process=1)
        trial.set_user_attr("worker", foreign.to_document())
    open_study(storage).run(try_out, FIRST)
    check_full(storage, FIRST)
    assert "no broadcast" in {each.user_attrs.get("origin") for each in finished(storage)}


def test_a_worker_of_another_machine_that_beats_is_waited_for(storage) -> None:
    """It takes longer than the silence that means death, and its trial is not tried twice."""
    foreign = replace(Worker.here(), machine="another container", process=1)
    slow = open_study(storage)
    trial = slow._study.ask(fixed_distributions=slow._distributions)
    trial.set_user_attr("worker", foreign.to_document())
    watcher = open_study(storage)
    for beat in range(12):
        trial.set_user_attr("heartbeat", beat)
        watcher._free_trials_of_the_dead()
        assert watcher._frozen(trial.number).state == TrialState.RUNNING
        time.sleep(QUICK.silence_s / 6)


def test_a_worker_that_was_given_up_for_dead_drops_its_trial(storage) -> None:
    """As after a suspended machine wakes up: others have tried it meanwhile."""
    told = []

    def slow(policy: Policy, time_to_beat: float | None) -> Outcome:
        if not told:
            told.append(policy.name)
            for trial in look_into(storage).get_trials(states=(TrialState.RUNNING,)):
                other._give_back(trial)
            other.run(try_out, 2)
        return try_out(policy, time_to_beat)

    study, other = open_study(storage), open_study(storage)
    study.run(slow, 4)
    check_full(storage, 4)


def test_an_interrupted_trial_is_given_back(storage) -> None:
    def interrupted(policy: Policy, time_to_beat: float | None) -> Outcome:
        raise KeyboardInterrupt

    study = open_study(storage)
    with pytest.raises(KeyboardInterrupt):
        study.run(interrupted, 3)
    assert not look_into(storage).get_trials(states=(TrialState.RUNNING,))
    study.run(try_out, FIRST)
    check_full(storage, FIRST)
    assert "no broadcast" in {candidate.origin for candidate in study.candidates()}


def test_processes_that_share_a_study_end_with_exactly_what_was_asked_for(storage) -> None:
    """Three that ask at once, of a queue that holds fewer than these and a number that three do not divide."""
    workers = [start(storage, 10, "patient") for _ in range(3)]
    numbers = [[int(line) for line in worker.communicate(timeout=120)[0].split()] for worker in workers]
    assert all(worker.returncode == 0 for worker in workers)
    every = [number for some in numbers for number in some]
    assert len(every) == len(set(every)) == 10
    check_full(storage, 10)


def test_of_two_that_ask_for_the_last_trial_one_gives_it_back(storage, monkeypatch) -> None:
    """Both see that one is missing; the other asks just before this one."""
    study, other = open_study(storage, Patience()), open_study(storage, Patience())
    ask, taken = study._study.ask, []

    def ask_second(**values) -> optuna.Trial:
        if not taken:
            taken.append(other._ask())
        return ask(**values)

    monkeypatch.setattr(study._study, "ask", ask_second)
    thread = threading.Thread(target=study.run, args=(try_out, 1))
    thread.start()
    while not look_into(storage).get_trials(states=(TrialState.FAIL, TrialState.COMPLETE)):
        time.sleep(0.01)
    other._try(taken[0], try_out)
    thread.join()
    check_full(storage, 1)


def test_a_worker_killed_while_it_queues_leaves_all_first_trials(storage) -> None:
    study = open_study(storage)
    for trial in study._study.get_trials(states=(TrialState.WAITING,))[3:]:
        study._study._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
    assert len(waiting(look_into(storage))) == FIRST


def test_the_sampler_is_told_by_how_much_limits_were_passed(storage) -> None:
    """Fault 27: constraints not told to Optuna, and a constant objective, passed."""
    study = open_study(storage)
    study.run(try_out, 4)
    trials = finished(storage)
    for trial, candidate in zip(trials, study.candidates(), strict=True):
        assert trial.constraints == candidate.outcome.constraints
        assert trial.value == candidate.outcome.predicted_time
    assert trials[0].constraints == {"over_budget": -0.3}
    assert max(trial.constraints["over_budget"] for trial in trials) > 0


def test_a_trial_that_is_not_known_beforehand_has_to_beat_the_best_feasible_one(storage) -> None:
    """Fault 27: `time_to_beat` that is never passed passed."""
    given: list[float | None] = []

    def noting(policy: Policy, time_to_beat: float | None) -> Outcome:
        given.append(time_to_beat)
        return try_out(policy)

    study = open_study(storage)
    study.run(noting, FIRST + 3)
    assert given[:FIRST] == [None] * FIRST
    for index in range(FIRST, FIRST + 3):
        before = study.candidates()[:index]
        assert given[index] == min(each.outcome.predicted_time for each in before if each.outcome.is_feasible)


def test_the_seed_decides_what_is_drawn(tmp_path) -> None:
    """Fault 27: a seed that is ignored passed."""
    drawn = []
    for number, seed in enumerate((0, 0, 1)):
        study = open_study(str(tmp_path / f"{number}.journal"), seed=seed)
        study.run(try_out, FIRST + 3)
        drawn.append([candidate.parameters for candidate in study.candidates()[FIRST:]])
    assert drawn[0] == drawn[1] != drawn[2]


def last_drawn(folder: Path, largest_saving: float) -> list[float]:
    """Saved time of the last 16 of 32 trials, of which more than the largest saving is over the budget."""

    def limited(policy: Policy, time_to_beat: float | None) -> Outcome:
        outcome = try_out(policy)
        saved = outcome.measured.drop
        return replace(outcome, measured=replace(outcome.measured, over_budget=saved - largest_saving))

    study = open_study(str(folder / f"{largest_saving}.journal"), seed=1)
    study.run(limited, 32)
    return [1 - candidate.outcome.predicted_time for candidate in study.candidates()[16:]]


def test_the_sampler_learns_what_is_fast_and_what_is_over_the_budget(tmp_path) -> None:
    """Fault 27: a random sampler saves about 0.6 (at most 0.89 is possible), whatever the limit."""
    free, limited = last_drawn(tmp_path, 1.0), last_drawn(tmp_path, 0.55)
    assert sum(free) / len(free) > 0.8
    assert sum(saved <= 0.55 for saved in free) == 0
    assert sum(saved <= 0.55 for saved in limited) >= 4


@pytest.mark.parametrize(
    ("storage", "message"),
    [("study.txt", "neither a URL .* nor a journal file"), ("nosuchdb://x/y", "cannot use the storage")],
)
def test_storages_that_cannot_be_used_are_refused(storage, message) -> None:
    with pytest.raises(StudyError, match=message):
        open_study(storage)


@pytest.fixture
def interruptible():
    """Python's own handling of Ctrl-C, which processes that share out tests ignore."""
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, handler)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_while_the_storage_is_written_loses_nothing(tmp_path, monkeypatch) -> None:
    """Ctrl-C lands in the middle of every write of a trial in turn: it is heeded after the write, and the study goes on."""
    storage, write, writes_left = storages(tmp_path)["journal"], JournalFileBackend.append_logs, [-1]

    def append_logs(self, logs) -> None:
        if threading.current_thread() is threading.main_thread():
            writes_left[0] -= 1
            if writes_left[0] == 0:
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0)  # where an interrupt that is not held back would arrive
        write(self, logs)

    monkeypatch.setattr(JournalFileBackend, "append_logs", append_logs)
    interrupts = 0
    for number in range(1, 12):
        study = open_study(storage)
        finished, writes_left[0] = len(study.candidates()), number
        try:
            study.run(try_out, finished + 1)
        except KeyboardInterrupt:
            interrupts += 1
        writes_left[0] = -1
    assert interrupts >= 5
    open_study(storage).run(try_out, 15)
    states = [trial.state for trial in look_into(storage).get_trials()]
    assert states.count(TrialState.COMPLETE) == 15
    assert TrialState.RUNNING not in states
