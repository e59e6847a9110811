"""`pabtune policies`: the presets."""

import click

from pabtune.cli.options import json_option
from pabtune.cli.output import emit


@click.command()
@json_option
def command(as_json: bool) -> None:
    """List the presets. Every other policy is a file."""
    from pabtune.planning.presets import MODEL_PRESETS, NAMED_LINES, PRESET_LINES

    if as_json:
        emit(
            {
                "presets": dict(PRESET_LINES),
                "named": dict(NAMED_LINES),
                "models": {model: list(names) for model, names in MODEL_PRESETS.items()},
            }
        )
        return
    for name, line in (*PRESET_LINES.items(), *NAMED_LINES.items()):
        click.echo(f"{name:17} {line}")
    for model, names in MODEL_PRESETS.items():
        click.echo(f"as published for {model}: {', '.join(f'{model}/{name}' for name in names)}")
