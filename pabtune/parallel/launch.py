"""Starting a command once per process on this machine, and telling in one line who failed and why."""

import json
import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path

from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from pabtune.records.errors import ParallelError

ERROR_FILE = "TORCHELASTIC_ERROR_FILE"
"""Environment variable with the file that a process writes its reason into; torchrun sets it too."""

STARTED = "PABTUNE_STARTED"
"""Set for processes that this module started: their launcher speaks for them."""

MONITOR_SECONDS = 0.2
"""How often the launcher looks whether a process has failed; the others are then stopped."""


def launch(processes: int, command: Sequence[str]) -> None:
    """Runs a command in so many processes, which find each other by torch's environment variables.

    Args:
        processes: how many.
        command: program and arguments.

    Raises:
        ParallelError: a process failed; names its rank and the reason. All others have been stopped.
    """
    for name in ("torch.distributed.elastic", "torch.distributed"):
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
    # As torchrun does: so many processes with all threads each would be in each other's way.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    os.environ[STARTED] = "1"
    try:
        elastic_launch(config, command[0])(*command[1:])
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        raise ParallelError(f"rank {rank} stopped with code {failure.exitcode}: {_reason(failure.message)}") from error


def report_failure(reason: str) -> None:
    """Leaves the reason of this process' failure where its launcher finds it; nothing without one."""
    place = os.environ.get(ERROR_FILE)
    if place:
        extra = {"py_callstack": "", "timestamp": str(int(time.time()))}
        Path(place).write_text(json.dumps({"message": {"message": reason, "extraInfo": extra}}), encoding="utf-8")


def _reason(message: str | dict[str, object]) -> str:
    text = str(message.get("message", message)) if isinstance(message, dict) else str(message)
    return " ".join(text.split())
