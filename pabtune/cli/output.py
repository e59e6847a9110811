"""Output of the command line: text and progress on stderr, one JSON document on stdout."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from pabtune.parallel.process import is_first
from pabtune.records.verdicts import Judgement


class Advance(Protocol):
    """Moves a progress bar to `done` of `total`, with a note behind its title."""

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """Updates the bar."""


def say(text: str) -> None:
    """Prints a line to stderr; of several processes, only the first prints."""
    if is_first():
        click.echo(text, err=True)


def emit(document: Mapping[str, Any]) -> None:
    """Prints the JSON document of a verb to stdout."""
    click.echo(json.dumps(document, indent=2, sort_keys=True, allow_nan=False))


@contextmanager
def progress_bar(title: str) -> Iterator[Advance]:
    """A progress bar with the time left, on stderr."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    progress = Progress(*columns, console=Console(stderr=True))
    task = progress.add_task(title, total=None)

    def advance(done: int, total: int, note: str = "") -> None:
        # Shown from the first step on, so that a refused request prints its error alone.
        if not is_first():
            return
        progress.start()
        progress.update(task, completed=done, total=total, description=f"{title}{note}")

    try:
        yield advance
    finally:
        if progress.live.is_started:
            progress.stop()


def print_judgement(judgement: Judgement, label: str) -> None:
    """Prints a verdict and what it rests on, with a line for each content class."""
    low, high = judgement.interval
    say(f"{label}{judgement}")
    say(
        f"  mean drop {judgement.mean:+.2f} ({low:+.2f} to {high:+.2f}), broken videos {judgement.broken:.1%}, "
        f"doubt {judgement.doubt:.2g} (accepts at {judgement.error:.2g})"
    )
    for content, own in judgement.classes.items():
        say(f"  {content}: {own}, mean drop {own.mean:+.2f}, broken {own.broken:.1%}")
