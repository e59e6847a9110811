"""`pabtune models`: what is known."""

import click

from pabtune.cli.options import json_option
from pabtune.cli.output import emit


@click.command()
@json_option
def command(as_json: bool) -> None:
    """List the registered models and the transformers whose sites are known."""
    from pabtune.models.registry import MODEL_LINES
    from pabtune.models.site_tables import known_patterns

    if as_json:
        kinds = {name: sorted({pattern.kind for pattern in patterns}) for name, patterns in known_patterns().items()}
        emit({"models": dict(MODEL_LINES), "transformers": kinds})
        return
    for name, line in MODEL_LINES.items():
        click.echo(f"{name:12} {line}")
    click.echo("or a folder or hub id of a diffusers pipeline with one of these transformers:")
    for name, patterns in known_patterns().items():
        click.echo(f"  {name}: {', '.join(sorted({pattern.kind for pattern in patterns}))}")
