"""`pabtune policies`: what is known."""

import click

from pabtune.cli.options import json_option
from pabtune.cli.output import emit


@click.command()
@json_option
def command(as_json: bool) -> None:
    """List the presets; everything else is a policy file."""
    from pabtune.planning.presets import PRESET_LINES

    if as_json:
        emit({"presets": dict(PRESET_LINES)})
        return
    for name, line in PRESET_LINES.items():
        click.echo(f"{name:8} {line}")
