"""Who this process is among those that run together: the only reader of a launcher's environment. Needs no torch."""

import json
import os
import time
from pathlib import Path

STARTED = "PABTUNE_STARTED"
"""Set for processes that `launch` started: their launcher speaks for them."""

ERROR_FILE = "TORCHELASTIC_ERROR_FILE"
"""Environment variable with the file that a process writes its reason into; torchrun sets it too."""


def rank() -> int:
    """Number of this process among all, 0 for a process that runs alone."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Number of processes, 1 for a process that runs alone."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


def local_rank() -> int | None:
    """Number of this process on its machine; None where no launcher started it."""
    return int(os.environ["LOCAL_RANK"]) if "LOCAL_RANK" in os.environ else None


def is_launched() -> bool:
    """Whether a launcher (torchrun, or ours) started this process beside others."""
    return world_size() > 1


def is_first() -> bool:
    """Whether this process is alone, or the first of those that run together."""
    return rank() == 0


def has_launcher() -> bool:
    """Whether a launcher started this process, be it alone."""
    return "RANK" in os.environ


def is_spoken_for() -> bool:
    """Whether our launcher started this process and reports its errors."""
    return STARTED in os.environ


def local_device(device: str) -> str:
    """The device of this process: of several GPUs, the one with its local number."""
    return f"cuda:{local_rank()}" if device == "cuda" and local_rank() is not None else device


def report_failure(reason: str) -> None:
    """Leaves the reason of this process' failure where its launcher finds it; does nothing without one."""
    path = os.environ.get(ERROR_FILE)
    if path:
        extra = {"py_callstack": "", "timestamp": str(int(time.time()))}
        Path(path).write_text(json.dumps({"message": {"message": reason, "extraInfo": extra}}), encoding="utf-8")
