"""Studies in PostgreSQL, run for real: workers that share nothing but the URL."""

import signal

import pytest
from optuna.trial import TrialState

from tests.tuning import test_once, test_study
from tests.tuning.test_study import check_full, finished, look_into, start

pytestmark = pytest.mark.postgres


def test_four_workers_two_of_which_are_killed_lose_nothing(postgres) -> None:
    """All begin in an empty database at once. No trial is lost, none is told twice, and the study ends with exactly 12."""
    dying = [start(postgres, 12, "try", at) for at in (1, 2)]
    living = [start(postgres, 12, "patient") for _ in range(2)]
    numbers: list[int] = []
    for worker in dying:
        while (line := worker.stdout.readline()) not in ("open\n", ""):
            numbers.append(int(line))
        assert line == "open\n"
    for worker in dying:
        worker.send_signal(signal.SIGKILL)
        worker.communicate()
        assert worker.returncode == -signal.SIGKILL
    for worker in living:
        numbers += [int(line) for line in worker.communicate(timeout=120)[0].split()]
        assert worker.returncode == 0
    assert len(numbers) == len(set(numbers)) == 12
    assert {trial.number for trial in finished(postgres)} == set(numbers)
    check_full(postgres, 12)
    study, killed = look_into(postgres), {worker.pid for worker in dying}
    failed = study.get_trials(states=(TrialState.FAIL,))
    dropped = {
        each.user_attrs["worker"]["process"]: each for each in failed if each.user_attrs["worker"]["process"] in killed
    }
    assert set(dropped) == killed
    # What a killed worker had open comes last of its trials. It is tried again, or still waits where others filled the study.
    again = [each.params for each in finished(postgres)]
    again += [each.system_attrs["fixed_params"] for each in test_study.waiting(study)]
    assert all(each.params in again for each in dropped.values())


def test_what_is_done_once_is_done_once(postgres, tmp_path) -> None:
    test_once.test_of_three_that_ask_at_once_one_does_it_and_all_get_it(postgres, tmp_path)


def test_of_two_that_ask_for_the_last_trial_one_gives_it_back(postgres, monkeypatch) -> None:
    test_study.test_of_two_that_ask_for_the_last_trial_one_gives_it_back(postgres, monkeypatch)
