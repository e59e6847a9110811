"""Rank and launcher of this process, read from the environment. No other module reads it. Needs no torch."""

import json
import os
import time
from pathlib import Path

STARTED = "PABTUNE_STARTED"
"""Environment variable of processes that `launch` started, whose errors the launcher prints."""

OUTCOMES = "PABTUNE_OUTCOMES"
"""Environment variable of processes that are started again when one dies: the folder in which they leave how they ended."""

RESTARTS = "TORCHELASTIC_RESTART_COUNT"
"""Environment variable with how often the processes were started again."""

ERROR_FILE = "TORCHELASTIC_ERROR_FILE"
"""Environment variable with the file for the reason of a failure; torchrun sets it too."""


def rank() -> int:
    """Rank of this process; 0 for a process that runs alone."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Number of processes; 1 for a process that runs alone."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


def local_rank() -> int | None:
    """Rank of this process on its machine; None if no launcher started it."""
    return int(os.environ["LOCAL_RANK"]) if "LOCAL_RANK" in os.environ else None


def is_launched() -> bool:
    """Whether a launcher (torchrun or ours) started this process and others."""
    return world_size() > 1


def is_first() -> bool:
    """Whether this is the first process, or the only one."""
    return rank() == 0


def has_launcher() -> bool:
    """Whether a launcher started this process, even if it is the only one."""
    return "RANK" in os.environ


def is_spoken_for() -> bool:
    """Whether our launcher started this process and prints its errors."""
    return STARTED in os.environ


def local_device(device: str) -> str:
    """The device of this process; `cuda` becomes the GPU of its local rank."""
    return f"cuda:{local_rank()}" if device == "cuda" and local_rank() is not None else device


def outcomes_folder() -> Path | None:
    """Folder of processes that are started again when one dies; None for other processes."""
    return Path(os.environ[OUTCOMES]) if OUTCOMES in os.environ else None


def restarts() -> int:
    """How often the processes were started again because one died."""
    return int(os.environ.get(RESTARTS, "0"))


def has_outcome() -> bool:
    """Whether the work of all processes is over: the first one has its answer, or one was refused."""
    folder = outcomes_folder()
    return folder is not None and any(folder.glob("outcome-*.json"))


def leave_outcome(code: int, reason: str = "") -> int:
    """Leaves an exit code where the launcher reads it, which would take a process with another one than 0 for dead.

    Returns the exit code that the process should have. A refusal ends all processes: the launcher starts them again, and
    they find that it is there.

    Args:
        code: of the command line: 0, 1 = the answer is no, 2 = refused, others = the process is to be started again.
        reason: of a refusal.
    """
    folder = outcomes_folder()
    if folder is None or code not in (0, 1, 2):
        return code
    if is_first() or code == 2:
        partial = folder / f"partial-{rank()}"
        partial.write_text(json.dumps({"code": code, "reason": reason}), encoding="utf-8")
        partial.replace(folder / f"outcome-{rank()}.json")
    return 2 if code == 2 else 0


def report_failure(reason: str) -> None:
    """Writes the reason of this process' failure where its launcher reads it; does nothing without a launcher."""
    path = os.environ.get(ERROR_FILE)
    if path:
        extra = {"py_callstack": "", "timestamp": str(int(time.time()))}
        Path(path).write_text(json.dumps({"message": {"message": reason, "extraInfo": extra}}), encoding="utf-8")
