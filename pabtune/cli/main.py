"""The command `pabtune`: its verbs, and how errors become messages and exit codes."""

import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import click

import pabtune
from pabtune.cli.layout import ARGUMENTS
from pabtune.parallel.process import (
    has_launcher,
    has_outcome,
    is_first,
    is_spoken_for,
    leave_outcome,
    outcomes_folder,
    report_failure,
)
from pabtune.records.errors import PabtuneError, PabtuneWarning, one_line

VERB_LINES = {
    "demo": "Profile, search, generate and evaluate on the embedded model, in a few minutes.",
    "demo-parallel": "The embedded model on several processes: the same video, fewer messages under a policy.",
    "profile": "Measure how a model's outputs change from step to step.",
    "search": "Find the fastest policy within a quality budget.",
    "generate": "Generate videos, with or without a policy.",
    "evaluate": "Measure speed, fidelity and score of policies.",
    "compare": "Compare methods of the literature with pabtune's own on a model.",
    "report": "Write one page of what the other verbs left in a folder.",
    "vbench": "Score videos with VBench, in an environment of its own.",
    "export": "Write a policy for another engine, or check that the engine ran it.",
    "bench-links": "Measure the interconnect between processes.",
    "cost": "Predict compute, communication, memory and time of a policy, without running the model.",
    "prompts": "Write prompts for measurements, and split them into parts.",
    "models": "List the known models.",
    "policies": "List the known policies; show what one does, step by layer.",
}
"""One line about each verb, in the order of the help."""


class Verbs(click.Group):
    """Group of verbs that imports a verb's module only when it is used, so that --help is fast."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Keeps the arguments of the command line, with which child processes are started."""
        arguments = tuple(args)
        ctx = super().make_context(info_name, args, parent, **extra)
        ctx.meta[ARGUMENTS] = arguments
        return ctx

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The verbs, in the order in which a new user needs them."""
        return list(VERB_LINES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of a verb, from the module of the same name."""
        if cmd_name not in VERB_LINES:
            return None
        return import_module(f"pabtune.cli.{cmd_name.replace('-', '_')}").command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes each verb and its line without importing the verbs."""
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERB_LINES.items()))


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(pabtune.__version__, prog_name="pabtune")
def main() -> None:
    """Profile, search and run broadcast policies for video diffusion transformers.

    Exit codes. 0: success. 1: the command ran and the answer is no. 2: wrong usage or input.
    """


def _report(reason: str) -> None:
    """Prints the error in one line, or leaves it to the launcher to print."""
    if has_launcher():
        report_failure(reason)
    if not is_spoken_for():
        click.echo(f"error: {reason}", err=True)


@contextmanager
def _warnings_in_one_line() -> Iterator[None]:
    """Context in which pabtune's warnings are printed as its errors are, without the line of code that they come from.

    Of processes that share a video the first one alone prints them; workers that share nothing but files all do.
    """
    plain, is_told = warnings.formatwarning, is_first() or outcomes_folder() is not None

    def format_warning(message: Warning | str, category: type[Warning], *where: Any, **line: Any) -> str:
        if issubclass(category, PabtuneWarning):
            return f"warning: {one_line(str(message))}\n" if is_told else ""
        return plain(message, category, *where, **line)

    warnings.formatwarning = format_warning
    try:
        yield
    finally:
        warnings.formatwarning = plain


def _tell_usage(error: click.UsageError) -> None:
    """Prints what is wrong with the words of a command in one line; for a command without any, its help."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError) and error.ctx is not None:
        click.echo(error.ctx.get_help(), err=True)
        return
    hint = f" (see {error.ctx.command_path} --help)" if error.ctx else ""
    click.echo(f"error: {one_line(error.format_message() + hint)}", err=True)


def run(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line and exits: one line per error, and no traceback for errors that the user can fix.

    Args:
        arguments: after the name of the command; None = those of this process.
    """
    if has_outcome():
        sys.exit(0)
    reason = ""
    try:
        with _warnings_in_one_line():
            code = main.main(arguments, standalone_mode=False)
    except click.exceptions.Exit as done:
        code = done.exit_code
    except (click.Abort, KeyboardInterrupt):
        if not is_spoken_for():
            click.echo(
                "\nstopped; written files are complete, and the same command resumes a search or a comparison", err=True
            )
        code = 130
    except click.UsageError as error:
        _tell_usage(error)
        code = 2
    except click.ClickException as error:
        click.echo(f"error: {one_line(error.format_message())}", err=True)
        code = 2
    except PabtuneError as error:
        reason, code = str(error), 2
        _report(reason)
    except Exception as error:
        if has_launcher():
            report_failure(f"{type(error).__name__}: {error}")
        raise
    sys.exit(leave_outcome(code if isinstance(code, int) else 0, reason))
