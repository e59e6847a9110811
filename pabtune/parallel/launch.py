"""Starting a command in several processes on this machine, and reporting a failure in one line."""

import json
import logging
import os
import signal
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from pabtune.parallel.mesh import LOST
from pabtune.parallel.process import OUTCOMES, STARTED
from pabtune.records.errors import ParallelError

NO_REASON = {"message": "<NONE>"}
"""Torch's report of a process that left no reason."""

MONITOR_SECONDS = 0.2
"""Interval in which the launcher checks for failed processes, after which it stops the others."""


MOST_RESTARTS = 3
"""How often workers are started again because one of them died."""


def launch_workers(processes: int, command: Sequence[str]) -> int:
    """Runs a command in processes that share nothing but files; returns the exit code of the first.

    Torch's launcher knows no restart of a single process: if one dies, all are stopped and started again.

    Args:
        processes: number of processes.
        command: program and arguments; ends through `leave_outcome`.

    Raises:
        ParallelError: a process was refused what it asked for, or died once more than all may be started again.
    """
    with tempfile.TemporaryDirectory(prefix="pabtune-") as folder:
        launch(processes, command, {OUTCOMES: folder}, MOST_RESTARTS)
        for rank in range(processes):
            path = Path(folder) / f"outcome-{rank}.json"
            if path.exists():
                outcome = json.loads(path.read_text(encoding="utf-8"))
                if outcome["code"] == 2:
                    raise ParallelError(f"worker {rank}: {outcome['reason']}" if rank else outcome["reason"])
                return int(outcome["code"])
    raise ParallelError("the workers ended without an answer")


def launch(
    processes: int, command: Sequence[str], environment: Mapping[str, str] | None = None, restarts: int = 0
) -> int:
    """Runs a command in several processes, which find each other through torch's environment variables.

    Returns the exit code: 0, or 1 where the command itself exited with 1, which means that its answer is no.

    Args:
        processes: number of processes.
        command: program and arguments.
        environment: further variables of the processes.
        restarts: how often all of them are started again because one failed.

    Raises:
        ParallelError: a process failed; the message names its rank and the reason. All others have been stopped.
    """
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("torch.distributed"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id="pabtune",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=restarts,
        monitor_interval=MONITOR_SECONDS,
    )
    # Processes that each use all cores would slow each other down; torchrun limits threads too.
    threads = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // processes))}
    try:
        with _environment({**threads, **os.environ, STARTED: "1", **(environment or {})}):
            elastic_launch(config, command[0])(*command[1:])
    except SignalException as stopped:
        raise KeyboardInterrupt from stopped
    except ChildFailedError as error:
        rank, failure = first_failure(error.failures)
        if failure.exitcode == 1 and failure.error_file_data == NO_REASON:
            return 1
        raise ParallelError(f"rank {rank} stopped with code {failure.exitcode}: {_reason(failure.message)}") from error
    return 0


def first_failure(failures: Mapping[int, ProcessFailure]) -> tuple[int, ProcessFailure]:
    """Rank and failure of the process that failed first.

    Processes that lost a peer or were stopped by the launcher come last, since timestamps are in seconds and often equal.

    Args:
        failures: failures by rank.
    """

    def order(rank: int) -> tuple[bool, bool, int]:
        failure = failures[rank]
        return _reason(failure.message).startswith(LOST), failure.exitcode == -signal.SIGTERM, failure.timestamp

    rank = min(failures, key=order)
    return rank, failures[rank]


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Sets environment variables; restores them and the signal handlers, which the launcher changes, on exit."""
    before = dict(os.environ)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _reason(message: str | dict[str, object]) -> str:
    text = str(message.get("message", message)) if isinstance(message, dict) else str(message)
    return " ".join(text.split())
