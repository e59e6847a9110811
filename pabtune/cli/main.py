"""The command `pabtune`: its verbs, and what every verb does with errors."""

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import click

import pabtune
from pabtune.cli.layout import ARGUMENTS
from pabtune.parallel.process import has_launcher, is_spoken_for, report_failure
from pabtune.records.errors import PabtuneError

VERB_LINES = {
    "demo": "The whole main job on the embedded model, in a few minutes.",
    "demo-parallel": "The embedded model on several processes: same video, fewer messages.",
    "profile": "Measure how a model's attention changes from step to step.",
    "search": "Find the fastest policy inside a quality budget.",
    "generate": "Make videos, with or without a policy.",
    "evaluate": "Measure what policies gain and cost.",
    "export": "Write a policy as another library's configuration.",
    "bench-links": "Measure how fast processes exchange.",
    "cost": "What a policy computes, exchanges, holds and takes, without running the model.",
    "prompts": "Sample captions to measure with.",
    "models": "List the known models.",
    "policies": "List the known policies.",
}
"""The verbs, in the order of the help, each with its line."""


class Verbs(click.Group):
    """Loads a verb's file when the verb is used, so that --help stays fast."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Keeps the words of the command line: child processes are started with them."""
        words = tuple(args)
        ctx = super().make_context(info_name, args, parent, **extra)
        ctx.meta[ARGUMENTS] = words
        return ctx

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Verbs in the order in which a newcomer needs them."""
        return list(VERB_LINES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The verb's command, from the file of its name."""
        if cmd_name not in VERB_LINES:
            return None
        return import_module(f"pabtune.cli.{cmd_name.replace('-', '_')}").command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Each verb and its line, without loading the verbs."""
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERB_LINES.items()))


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(pabtune.__version__, prog_name="pabtune")
def main() -> None:
    """Profile, search and run broadcast policies for video diffusion transformers.

    Exit code 0: done. 1: the work ran and the answer is no. 2: bad usage or bad input.
    """


def _tell(reason: str) -> None:
    """One line; for one of several processes that we started, by their launcher."""
    if has_launcher():
        report_failure(reason)
    if not is_spoken_for():
        click.echo(f"error: {reason}", err=True)


def run(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line and exits: one line per error, no traceback for what the user can mend.

    Args:
        arguments: words after the command's name; None = those of this process.
    """
    try:
        code = main.main(arguments, standalone_mode=False)
    except click.exceptions.Exit as done:
        code = done.exit_code
    except (click.Abort, KeyboardInterrupt):
        if not is_spoken_for():
            click.echo("\nstopped; what was written is whole, and a search goes on with the same command", err=True)
        code = 130
    except click.UsageError as error:
        hint = f" (see {error.ctx.command_path} --help)" if error.ctx else ""
        click.echo(f"error: {error.format_message()}{hint}", err=True)
        code = 2
    except click.ClickException as error:
        click.echo(f"error: {error.format_message()}", err=True)
        code = 2
    except PabtuneError as error:
        _tell(" ".join(str(error).split()))
        code = 2
    except Exception as error:
        if has_launcher():
            report_failure(f"{type(error).__name__}: {error}")
        raise
    sys.exit(code if isinstance(code, int) else 0)
