"""`pabtune export`: a policy for the engines that teams serve with, and whether they ran it."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from pabtune.cli.options import STEPS, FiniteRange, check_not_read, json_option
from pabtune.cli.output import emit, say
from pabtune.engines.engine import ENGINES
from pabtune.records.errors import one_line

if TYPE_CHECKING:
    from pabtune.engines.export import Export


class Counts(click.ParamType):
    """Whole numbers, separated by commas."""

    name = "N[,N…]"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """The numbers."""
        if isinstance(value, tuple):
            return value
        parts = str(value).split(",")
        if not all(part.isascii() and part.isdigit() and 0 < int(part[:5]) <= 1000 for part in parts):
            self.fail(
                f"{value!r} is not a number of blocks from 1 to 1000, or one for each list: 30 or 20,40", param, ctx
            )
        return tuple(int(part) for part in parts)


@click.command()
@click.argument("name", metavar="POLICY")
@click.option("--to", metavar="ENGINE", required=True, help=f"{', '.join(ENGINES)}.")
@click.option("--content", help="Export the policy's variant for this content class.")
@click.option("--steps", type=STEPS, help="Denoising steps, for a policy that does not say them.")
@click.option(
    "--layers", type=Counts(), default=(), help="Blocks of the model, list by list, if the policy does not say."
)
@click.option(
    "--boundary", type=FiniteRange(0, 1), help="Noise level of a pipeline's boundary_ratio, for two transformers."
)
@click.option(
    "--calls", type=click.IntRange(1, 2), help="Calls of the transformer in a step: 2 = one for each guidance branch."
)
@click.option(
    "--profile", "profile_file", type=click.Path(path_type=Path),
    help="Predict the time from this profile; it also tells the model and the steps of a policy without.",
)  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), help="Output file; default: stdout.")
@click.option(
    "--check", "log", metavar="FILE", type=click.Path(path_type=Path),
    help="Compare what ENGINE told of a run with the policy instead: cache_dit.summary, a log, or a JSON list of steps.",
)  # fmt: skip
@json_option
@click.pass_context
def command(
    ctx: click.Context, name: str, to: str, content: str | None, steps: int | None, layers: tuple[int, ...],
    boundary: float | None, calls: int | None, profile_file: Path | None, out: Path | None, log: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Write POLICY as an engine's configuration; list everything that it cannot express.

    Exit code 1: nothing of the policy can be expressed, or it broadcasts nothing, and no file is written; with --check, the
    engine did something else.
    """
    from pabtune.engines.exports import export
    from pabtune.engines.plan import Facts
    from pabtune.planning.presets import find_policy
    from pabtune.records.profiles import Profile

    if out is not None and log is not None:
        raise click.UsageError("--check compares and writes nothing; leave --out out", ctx)
    if out is not None:
        check_not_read(out, Path(name), profile_file)
    profile = None if profile_file is None else Profile.load(profile_file)
    facts = Facts(content=content, steps=steps, layers=layers, boundary=boundary, calls=calls, profile=profile)
    exported = export(find_policy(name, profile.model if profile else None), to, facts)
    if log is not None:
        ctx.exit(_check(exported, log, as_json))
    _write(exported, out, as_json)
    if not exported.is_useful:
        ctx.exit(1)


def _write(exported: "Export", out: Path | None, as_json: bool) -> None:
    """Writes a configuration and tells what it is and is not; a file that holds nothing of the policy is not written."""
    from pabtune.records.files import write_atomically

    exported = exported if out is None else exported.in_file(out.name)
    if out is not None and exported.is_useful:
        write_atomically(out, lambda partial: partial.write_text(exported.text, encoding="utf-8"))
    if as_json:
        emit(exported.to_document())
    elif out is None:
        click.echo(exported.text, nl=False)
    for line in exported.facts:
        say(line)
    for loss in exported.losses:
        say(f"not expressed: {one_line(loss)}")
    if not exported.losses and exported.is_useful:
        say("exact: the engine does what the policy says")
    if exported.is_useful:
        say(f"use: {exported.use}")
    elif out is not None:
        say(f"{out} is not written: nothing of the policy would be in it")


def _check(exported: "Export", log: Path, as_json: bool) -> int:
    """Tells whether a run was the policy's; the exit code."""
    from pabtune.engines.checking import check
    from pabtune.records.errors import FileError
    from pabtune.records.files import read_text

    checked = check(exported, read_text(log, FileError), str(log))
    if as_json:
        emit({"equal": not checked.differences, "differences": list(checked.differences), "compared": checked.seen})
    for difference in checked.differences:
        say(f"differs: {one_line(difference)}")
    if not checked.differences:
        say(f"equal: {checked.seen}")
    return 1 if checked.differences else 0
