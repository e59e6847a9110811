"""Work that one of several workers does for all of them, on any machines, through the storage that they share.

The work is the only trial of a study of its own: whoever signs it first does it, the others wait for what it makes. If its
worker dies or fails, another one begins anew.
"""

import json
import time
from collections.abc import Callable
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from pabtune.tuning.study import open_study, sign_of_life
from pabtune.tuning.workers import Patience, Watch, Worker, heartbeat, holding_interrupts

DOCUMENT = "document"
"""Attribute of the trial with what was made."""


def done_once(
    storage: str, name: str, work: Callable[[], Any], may_begin: bool = True, patience: Patience | None = None
) -> Any:
    """What the work made, here or by another worker, now or in an earlier run.

    Args:
        storage: journal file, or URL that Optuna takes.
        name: of the work in the storage.
        work: makes something that JSON holds.
        may_begin: whether this worker may do it; if not, it waits for another one.
        patience: how long other workers are waited for.

    Raises:
        StudyError: the storage cannot be used.
    """
    patience, worker = patience or Patience(), Worker.here()
    study, watch = open_study(storage, name)[0], Watch(worker, patience)
    while True:
        for trial in _trials(study, TrialState.COMPLETE):
            return json.loads(trial.user_attrs[DOCUMENT])
        watch.observe({trial.number: sign_of_life(trial) for trial in _trials(study, TrialState.RUNNING)})
        for number in watch.dead():
            _give_up(study, number)
        trial = _begin(study, worker) if may_begin and not _trials(study, TrialState.RUNNING) else None
        if trial is None:
            time.sleep(patience.poll_s)
        else:
            _do(study, trial, work, patience)


@holding_interrupts()
def _begin(study: optuna.Study, worker: Worker) -> optuna.Trial | None:
    """The work's trial, signed; None if another worker began before."""
    try:
        trial = study.ask()
        trial.set_user_attr("worker", worker.to_document())
    except UpdateFinishedTrialError:
        return None
    if any(each.number < trial.number for each in _trials(study, TrialState.COMPLETE, TrialState.RUNNING)):
        _give_up(study, trial.number)
        return None
    return trial


def _do(study: optuna.Study, trial: optuna.Trial, work: Callable[[], Any], patience: Patience) -> None:
    """Does the work and tells what it made, unless this worker was given up for dead meanwhile."""
    try:
        with heartbeat(lambda count: trial.set_user_attr("heartbeat", count), patience.heartbeat_s):
            document = json.dumps(work())
    except BaseException:
        _give_up(study, trial.number)
        raise
    with holding_interrupts():
        try:
            trial.set_user_attr(DOCUMENT, document)
            study.tell(trial, 0.0)
        except (UpdateFinishedTrialError, ValueError):
            if any(each.number == trial.number for each in _trials(study, TrialState.RUNNING)):
                raise


@holding_interrupts()
def _give_up(study: optuna.Study, number: int) -> None:
    """Fails a trial, unless it has ended already."""
    try:
        study.tell(number, state=TrialState.FAIL)
    except (UpdateFinishedTrialError, ValueError):
        if any(each.number == number for each in _trials(study, TrialState.RUNNING)):
            raise


def _trials(study: optuna.Study, *states: TrialState) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=states)
