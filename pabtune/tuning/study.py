"""A study that several processes, on any machines, work on, and that outlives them: Optuna's, in a storage.

The life of a trial: it waits if its parameters are chosen beforehand, is asked for, is signed by its worker, and gets its
outcome. A trial whose worker died is failed, and what it was to try is queued again. A study for n trials ends with n finished
ones: a worker with nothing left to ask for waits for what others have open, and takes it over if they die. A worker that was
given up for dead and comes back finds its trial failed, and drops it.
"""

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, event
from sqlalchemy.exc import DatabaseError, IntegrityError, ProgrammingError
from sqlalchemy.pool import NullPool

from pabtune.records.errors import PabtuneError, StudyError, first_line
from pabtune.records.files import check_writable
from pabtune.records.policies import Policy
from pabtune.records.prompts import Prompt
from pabtune.records.trials import Candidate, Outcome
from pabtune.tuning.journal import Journal
from pabtune.tuning.looks import count_look
from pabtune.tuning.space import Parameter, Space
from pabtune.tuning.workers import Patience, SignOfLife, Watch, Worker, heartbeat, holding_interrupts

JOURNAL_SUFFIXES = (".log", ".journal")
RANDOM_TRIALS = 12
"""Finished trials before the sampler begins to model them."""

SECRETS = (
    re.compile(r"(://[^:/@]*:)(.*)(@)"),
    re.compile(r"([?&][^=&]*(?:pass|pwd|secret|token|key)[^=&]*=)([^&]*)()", re.IGNORECASE),
)
"""Passwords in a URL, with what stands before and behind them: those of its user, and those in its query."""

SAMPLER_SEEDS = 2**32
"""Number of seeds of Optuna's samplers."""

LOCKED_S = 60.0
"""How long a worker waits for its turn at an SQLite file."""

OPENINGS = 5
"""How often a new database is opened."""

TryOut = Callable[[Policy, float | None], Outcome]
"""Tries a policy; given the predicted time of the best one so far, unless the policy is to be tried in any case."""

OnTrial = Callable[[Candidate, Sequence[Candidate]], None]
"""Told of every trial that this process finished, and of all finished trials of the study."""

OnCount = Callable[[int], None]
"""Told how many trials of the study are finished, over all workers."""


class SharedStudy:
    """A study in a storage, as one worker sees it.

    Args:
        storage: journal file, or URL that Optuna takes.
        name: of the study; whoever opens the same name works on the same study.
        space: of policies.
        prefix: beginning of the policies' names.
        seed: of the sampler. Who comes later, or beside, must not draw the same again, and takes another.
        request: what is searched, for the reader of the storage.
        patience: how long other workers are waited for.

    Raises:
        StudyError: the storage cannot be used.
    """

    @holding_interrupts()
    def __init__(
        self, storage: str, name: str, space: Space, prefix: str, seed: int = 0,
        request: Mapping[str, Any] | None = None, patience: Patience | None = None,
    ) -> None:  # fmt: skip
        self._space, self._prefix, self._patience = space, prefix, patience or Patience()
        self._distributions = distributions_of(space)
        self._worker = Worker.here()
        self._watch = Watch(self._worker, self._patience)
        self._finished: dict[int, Candidate] = {}
        self._study, self._storage = open_study(storage, name)
        self._study.set_user_attr("request", dict(request or {}))
        is_first = not self._study.get_trials(deepcopy=False)
        self._study.sampler = sampler_of(seed if is_first else seed + 1 + self._worker.process)
        self._queue_first_trials()

    @property
    def name(self) -> str:
        """Name in the storage."""
        return self._study.study_name

    @holding_interrupts()
    def note(self, key: str, value: Any) -> None:
        """Writes a remark for the reader of the storage."""
        self._study.set_user_attr(key, value)

    def count_look(self, unseen: Sequence[Prompt], claim: str, content: str | None = None) -> int:
        """Counts a look at unseen prompts; returns how many the studies of this storage have had (see `looks.count_look`)."""
        return count_look(self._study.set_user_attr, self._notes_of_all, unseen, claim, content)

    def _notes_of_all(self) -> list[dict[str, Any]]:
        """What each study of the storage has noted."""
        summaries = optuna.get_all_study_summaries(self._storage, include_best_trial=False)
        return [each.user_attrs for each in summaries]

    @holding_interrupts()
    def candidates(self) -> list[Candidate]:
        """All finished trials, in their order. Those that were seen before are not built anew."""
        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
            if trial.number not in self._finished:
                self._finished[trial.number] = Candidate(
                    number=trial.number,
                    origin=trial.user_attrs.get("origin", "sampler"),
                    policy=self._policy(trial),
                    parameters=dict(trial.params),
                    outcome=Outcome.from_document(trial.user_attrs["outcome"]),
                )
        return [self._finished[number] for number in sorted(self._finished)]

    def run(
        self,
        try_out: TryOut,
        trials: int,
        on_trial: OnTrial | None = None,
        can_try: Callable[[Policy], bool] | None = None,
        on_count: OnCount | None = None,
    ) -> None:
        """Works on the study until it has so many finished trials.

        Args:
            try_out: tries a policy.
            trials: finished trials in the end, over all workers and runs.
            on_trial: told of every trial.
            can_try: whether a policy may still be tried; the first that may not ends this worker's part.
            on_count: told how many trials are finished, by whichever worker; in a thread of its own while one is tried.
        """
        while True:
            self._free_trials_of_the_dead()
            finished = len(self.candidates())
            if on_count is not None:
                on_count(finished)
            if finished >= trials:
                return
            if len(self._trials(TrialState.COMPLETE, TrialState.RUNNING)) >= trials:
                time.sleep(self._patience.poll_s)
                continue
            trial = self._ask()
            if trial is None:
                continue
            if self._is_surplus(trial, trials):
                self._give_back(self._frozen(trial.number))
            elif can_try is not None and not can_try(self._policy(trial)):
                self._give_back(self._frozen(trial.number))
                return
            elif self._try(trial, try_out, on_count):
                candidates = self.candidates()
                if on_trial is not None:
                    on_trial(self._finished[trial.number], candidates)

    @holding_interrupts()
    def _ask(self) -> optuna.Trial | None:
        """A trial with all its parameters, signed; None if that took so long that others took it over."""
        try:
            trial = self._study.ask(fixed_distributions=self._distributions)
            trial.set_user_attr("worker", self._worker.to_document())
        except UpdateFinishedTrialError:
            return None
        return trial

    def _policy(self, trial: optuna.Trial | FrozenTrial) -> Policy:
        return self._space.policy(trial.params, f"{self._prefix}-trial-{trial.number}")

    def _try(self, trial: optuna.Trial, try_out: TryOut, on_count: OnCount | None = None) -> bool:
        """Tries a trial that was asked for, and tells its outcome; False if others gave this worker up meanwhile."""
        policy = self._policy(trial)
        times = [each.outcome.predicted_time for each in self.candidates() if each.outcome.is_feasible]
        time_to_beat = None if "origin" in trial.user_attrs else min(times, default=None)

        def beat(count: int) -> None:
            trial.set_user_attr("heartbeat", count)
            if on_count is not None:
                on_count(len(self._trials(TrialState.COMPLETE)))

        try:
            with heartbeat(beat, self._patience.heartbeat_s):
                outcome = try_out(policy, time_to_beat)
        except BaseException:
            self._give_back(self._frozen(trial.number))
            raise
        return self._tell(trial, outcome)

    @holding_interrupts()
    def _tell(self, trial: optuna.Trial, outcome: Outcome) -> bool:
        """Tells the outcome of a trial; False if others gave this worker up meanwhile."""
        try:
            trial.set_user_attr("outcome", outcome.to_document())
            for name, value in outcome.constraints.items():
                trial.set_constraint(name, value)
            self._study.tell(trial, outcome.predicted_time)
        except (UpdateFinishedTrialError, ValueError):
            if self._frozen(trial.number).state != TrialState.FAIL:
                raise
            return False
        return True

    @holding_interrupts()
    def _is_surplus(self, trial: optuna.Trial, trials: int) -> bool:
        """Whether the study is full without this trial, or another worker queued the same first trial and tries it.

        Of several workers that ask at once, those with the lower numbers go on.
        """
        others = [each for each in self._trials(TrialState.COMPLETE, TrialState.RUNNING) if each.number != trial.number]
        before = [each for each in others if each.state == TrialState.COMPLETE or each.number < trial.number]
        origin = trial.user_attrs.get("origin")
        is_twin = origin is not None and any(each.user_attrs.get("origin") == origin for each in before)
        return is_twin or len(before) >= trials

    @holding_interrupts()
    def _free_trials_of_the_dead(self) -> None:
        """Fails the open trials whose workers are dead, and queues what they were to try."""
        running = {trial.number: trial for trial in self._trials(TrialState.RUNNING)}
        self._watch.observe({number: sign_of_life(trial) for number, trial in running.items()})
        for number in self._watch.dead():
            self._give_back(running[number])

    @holding_interrupts()
    def _give_back(self, trial: FrozenTrial) -> None:
        """Fails an open trial and queues its parameters, unless another worker has done so already."""
        try:
            self._study.tell(trial.number, state=TrialState.FAIL)
        except (UpdateFinishedTrialError, ValueError):
            if self._frozen(trial.number).state == TrialState.RUNNING:
                raise
            return
        values = trial.system_attrs.get("fixed_params", trial.params)
        if "origin" in trial.user_attrs:
            self._queue_first_trials()
        elif set(values) == set(self._distributions):
            self._study.enqueue_trial(dict(values))

    def _queue_first_trials(self) -> None:
        """Queues what is tried in any case, as far as it is not waiting, open or finished: a worker may die while it does."""
        living = self._trials(TrialState.WAITING, TrialState.RUNNING, TrialState.COMPLETE)
        origins = {trial.user_attrs.get("origin") for trial in living}
        queued = [trial.system_attrs.get("fixed_params", trial.params) for trial in living]
        for origin, values in self._space.first_trials():
            if origin not in origins and values not in queued:
                self._study.enqueue_trial(values, user_attrs={"origin": origin})
                queued.append(values)

    def _trials(self, *states: TrialState) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False, states=states)

    def _frozen(self, number: int) -> FrozenTrial:
        return self._study.get_trials(deepcopy=False)[number]


def sign_of_life(trial: FrozenTrial) -> SignOfLife:
    """What an open trial says of its worker."""
    worker = trial.user_attrs.get("worker")
    return SignOfLife(
        worker=None if worker is None else Worker.from_document(worker), heartbeat=trial.user_attrs.get("heartbeat", 0)
    )


def sampler_of(seed: int) -> optuna.samplers.TPESampler:
    """The sampler of a search; `benchmarks/search.py` holds it against others."""
    return optuna.samplers.TPESampler(
        n_startup_trials=RANDOM_TRIALS, multivariate=True, group=False, constant_liar=True, seed=seed % SAMPLER_SEEDS
    )


def distributions_of(space: Space) -> dict[str, BaseDistribution]:
    """The parameters of a space in Optuna's words, by name."""
    return {parameter.name: _distribution(parameter) for parameter in space.parameters()}


def _distribution(parameter: Parameter) -> BaseDistribution:
    if parameter.choices:
        return CategoricalDistribution(parameter.choices)
    return IntDistribution(parameter.low, parameter.high)


def open_study(storage: str, name: str) -> tuple[optuna.Study, optuna.storages.BaseStorage]:
    """The study of a name, and the storage that it is in."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with _as_study_error(storage):
        opened = _open_storage(storage)
        study = optuna.create_study(study_name=name, storage=opened, direction="minimize", load_if_exists=True)
    return study, opened


@contextmanager
def _as_study_error(storage: str) -> Iterator[None]:
    """Turns what a storage raises into a `StudyError`, without the passwords of its URL."""
    try:
        yield
    except PabtuneError:
        raise
    except Exception as error:  # noqa: BLE001, every database driver has errors of its own
        shown, reason = without_secrets(storage, first_line(error))
        message = f"cannot use the storage {shown!r}: {reason or type(error).__name__}"
        if isinstance(error, ImportError) and storage.startswith("postgresql"):
            message = f"{message}; PostgreSQL needs its driver: pip install '.[postgres]' in pabtune's checkout"
        raise StudyError(message) from (error if shown == storage else None)  # whose text has the secret too


def without_secrets(storage: str, text: str) -> tuple[str, str]:
    """A storage's URL with stars for its passwords, and a text about it; an empty one where it tells of them."""
    shown, secrets = storage, []
    for pattern in SECRETS:
        secrets += [match[2] for match in pattern.finditer(shown)]
        shown = pattern.sub(r"\1***\3", shown)
    parts = {part for secret in secrets for part in re.split(r"\W+", f"{secret} {unquote(secret)}") if len(part) > 2}
    return shown, "" if any(part in text for part in parts) else text


def check_storage(storage: str) -> None:
    """Refuses what is no storage, or cannot be opened, before long work.

    Raises:
        StudyError: neither a URL nor a journal file, or it cannot be opened.
    """
    with _as_study_error(storage):
        _open_storage(storage)


def _check_name(storage: str) -> None:
    if "://" in storage or storage.endswith(JOURNAL_SUFFIXES):
        return
    raise StudyError(
        f"the storage {storage!r} is neither a URL (sqlite:///FILE, postgresql://…) nor a journal file (*.journal)"
    )


def _open_storage(storage: str) -> optuna.storages.BaseStorage:
    _check_name(storage)
    if storage.startswith("sqlite:///"):
        check_writable(Path(storage.removeprefix("sqlite:///")))
        return _open_sqlite(storage)
    if "://" in storage:
        return _retried(lambda: _open_server(storage), (IntegrityError, ProgrammingError))
    check_writable(Path(storage))
    return optuna.storages.JournalStorage(Journal(storage))


def _open_server(storage: str) -> optuna.storages.BaseStorage:
    """A storage on a server. A database's connections are closed after use: a server takes about 100, of all workers."""
    if storage.startswith("redis"):
        return optuna.storages.get_storage(storage)
    return RDBStorage(storage, engine_kwargs={"poolclass": NullPool})


def _retried(
    opening: Callable[[], optuna.storages.BaseStorage], errors: tuple[type[DatabaseError], ...]
) -> optuna.storages.BaseStorage:
    """A database of which several workers may make the tables at once, when it is new: one of them succeeds."""
    for attempt in range(OPENINGS - 1):
        with suppress(*errors):
            return opening()
        time.sleep(0.2 * (attempt + 1))
    return opening()


def _open_sqlite(storage: str) -> RDBStorage:
    """SQLite whose transactions lock the file from their beginning.

    Optuna takes a waiting trial by reading its state for update, which SQLite does not know: two workers that read at once
    would both try the same trial.
    """
    opened = _retried(
        lambda: RDBStorage(storage, engine_kwargs={"connect_args": {"timeout": LOCKED_S}}), (DatabaseError,)
    )

    @event.listens_for(opened.engine, "begin")
    def lock(connection: Connection) -> None:
        connection.connection.dbapi_connection.isolation_level = None  # the driver must not begin one of its own
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return opened
