"""Starting a command once per process on this machine, and telling in one line who failed and why."""

import logging
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from pabtune.parallel.mesh import LOST
from pabtune.parallel.process import STARTED
from pabtune.records.errors import ParallelError

NO_REASON = {"message": "<NONE>"}
"""What torch reports of a process that left no reason."""

MONITOR_SECONDS = 0.2
"""How often the launcher looks whether a process has failed; the others are then stopped."""


def launch(processes: int, command: Sequence[str]) -> int:
    """Runs a command in several processes, which find each other by torch's environment variables.

    Returns the exit code: 0, or 1 where the command ended so on its own: the work ran and the answer is no.

    Args:
        processes: number of processes.
        command: program and arguments.

    Raises:
        ParallelError: a process failed; names its rank and the reason. All others have been stopped.
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
        max_restarts=0,
        monitor_interval=MONITOR_SECONDS,
    )
    # As torchrun does: processes that each take all threads would be in each other's way.
    threads = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // processes))}
    try:
        with _environment({**threads, **os.environ, STARTED: "1"}):
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

    Those that lost another, or that the launcher stopped, come last: times are in whole seconds and often the same.

    Args:
        failures: by rank.
    """

    def order(rank: int) -> tuple[bool, bool, int]:
        failure = failures[rank]
        return _reason(failure.message).startswith(LOST), failure.exitcode == -signal.SIGTERM, failure.timestamp

    rank = min(failures, key=order)
    return rank, failures[rank]


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """The environment and the signal handlers, which the launcher changes, for as long as it runs."""
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
