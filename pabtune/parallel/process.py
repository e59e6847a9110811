"""Rank and launcher of this process, read from the environment. No other module reads it. Needs no torch."""

import json
import os
import time
from pathlib import Path

STARTED = "PABTUNE_STARTED"
"""Environment variable of processes that `launch` started, whose errors the launcher prints."""

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


def report_failure(reason: str) -> None:
    """Writes the reason of this process' failure where its launcher reads it; does nothing without a launcher."""
    path = os.environ.get(ERROR_FILE)
    if path:
        extra = {"py_callstack": "", "timestamp": str(int(time.time()))}
        Path(path).write_text(json.dumps({"message": {"message": reason, "extraInfo": extra}}), encoding="utf-8")
