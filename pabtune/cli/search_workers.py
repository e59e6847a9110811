"""The workers of `pabtune search`: one process and one device each, on one study."""

import os
import shlex
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from pabtune.cli.layout import ARGUMENTS, COMMAND
from pabtune.cli.output import say
from pabtune.parallel.process import outcomes_folder, rank, restarts
from pabtune.records.errors import ParallelError

workers_option: Callable[..., Any] = click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Processes on this machine that try policies out, each on a device of its own: with --device cuda a GPU, with "
    "--device cpu its part of the cores. Further machines join with the same command and one --storage URL.",
)


def start_workers(workers: int, device: str, videos: int | None) -> int | None:
    """Starts this command once per worker and returns its exit code; None if this process should do the work itself.

    Args:
        workers: their number.
        device: that the user asks for.
        videos: that the search may generate; None = any number.

    Raises:
        ParallelError: there are fewer devices, workers cannot keep to what is asked, or they failed.
    """
    if workers == 1 or outcomes_folder() is not None:
        return None
    if videos is not None:
        raise ParallelError(
            f"--videos {videos} is counted exactly by one worker alone, but --workers is {workers}; leave one of them out"
        )
    _check_devices(workers, device)
    from pabtune.parallel.launch import launch_workers

    say(f"{workers} workers; if one dies, all are started again and its trial goes back to the queue")
    arguments = click.get_current_context().meta[ARGUMENTS]
    return launch_workers(workers, [sys.executable, "-c", COMMAND, *arguments])


def _check_devices(workers: int, device: str) -> None:
    if device == "cpu":
        count, what = os.cpu_count() or 1, "cores"
    elif device == "cuda":
        import torch

        count, what = torch.cuda.device_count(), "CUDA devices"
    else:
        raise ParallelError(
            f"each worker takes a device of its own, but --device is {device}; with --workers {workers} say cuda or cpu"
        )
    if workers > count:
        raise ParallelError(
            f"each worker needs a device of its own, but for --workers {workers} there are {count} {what}"
        )


def team_here() -> Any:
    """The place of this process among the workers that were started together."""
    from pabtune.tuning.teams import ALONE, Team

    folder, again = outcomes_folder(), restarts()
    if folder is None:
        return ALONE
    if again:
        say(f"a worker died: all were started again (time {again}), and the trials that were open are tried again")
    if rank():
        warnings.simplefilter("ignore")  # the first worker says the same
    return Team(rank=rank(), folder=folder / f"start-{again}")


def say_where_to_look(storage: str, logdir: Path) -> None:
    """Prints the commands that show the study and the curves."""
    from pabtune.tuning.study import without_secrets

    shown = without_secrets(storage, "")[0]
    say(f"trials: optuna-dashboard {shlex.quote(shown)}    curves: tensorboard --logdir {shlex.quote(str(logdir))}")
