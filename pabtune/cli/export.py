"""`pabtune export`: a policy for other libraries."""

import json
from pathlib import Path

import click

from pabtune.cli.options import json_option
from pabtune.cli.output import emit, say
from pabtune.planning.exports import FORMATS, export
from pabtune.planning.presets import find_policy
from pabtune.records.files import save_json


@click.command()
@click.argument("name", metavar="POLICY")
@click.option("--to", type=click.Choice(FORMATS), required=True, help="Library whose configuration to write.")
@click.option("--content", help="Export the policy's variant for this content class.")
@click.option("--out", type=click.Path(path_type=Path), help="Output file; default: stdout.")
@json_option
@click.pass_context
def command(ctx: click.Context, name: str, to: str, content: str | None, out: Path | None, as_json: bool) -> None:
    """Write POLICY as another library's PAB configuration; list everything that it cannot express.

    Exit code 1: nothing of the policy can be expressed.
    """
    exported = export(find_policy(name), to, content)
    if out is not None:
        save_json(out, exported.document)
    if as_json:
        emit({"to": to, "config": exported.document, "not_expressed": list(exported.losses)})
    elif out is None:
        click.echo(json.dumps(exported.document, indent=2))
    for loss in exported.losses:
        say(f"not expressed: {loss}")
    if not exported.document:
        ctx.exit(1)
