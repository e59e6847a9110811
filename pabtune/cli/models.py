"""`pabtune models`: the models and transformer classes that pabtune knows."""

from typing import Any

import click

from pabtune.catalog import CATALOG
from pabtune.cli.options import json_option
from pabtune.cli.output import emit


@click.command()
@click.option("--sites", "model", metavar="MODEL", help="Print the site map of MODEL: a name, a folder or a hub id.")
@json_option
def command(model: str | None, as_json: bool) -> None:
    """List the registered models and the transformer classes with known sites, or the sites of one model."""
    if model is not None:
        _print_sites(model, as_json)
        return
    from pabtune.models.registry import MODEL_LINES

    kinds = {card.transformer: sorted({pattern.kind for pattern in card.sites}) for card in CATALOG}
    if as_json:
        emit({"models": dict(MODEL_LINES), "transformers": kinds})
        return
    for name, line in MODEL_LINES.items():
        click.echo(f"{name:12} {line}")
    click.echo("or a folder or hub id of a diffusers pipeline with one of these transformers:")
    for name, kinds_of_class in kinds.items():
        click.echo(f"  {name}: {', '.join(kinds_of_class)}")


def _print_sites(model: str, as_json: bool) -> None:
    """Prints the site map, from the model's configuration alone."""
    from pabtune.models.registry import transformers_on_meta
    from pabtune.models.sites import find_sites

    transformers = transformers_on_meta(model)
    maps = {name: find_sites(transformer, name) for name, transformer in transformers.items()}
    if as_json:
        emit({"transformers": {name: _document(transformers[name], site_map) for name, site_map in maps.items()}})
        return
    for name, site_map in maps.items():
        how = (
            "known class"
            if site_map.source == "catalog"
            else "unknown class, guessed from its structure: check before you trust it"
        )
        click.echo(f"{name}: {type(transformers[name]).__name__}, {len(site_map.sites)} sites ({how})")
        for note in site_map.notes:
            click.echo(f"  {note}")
        for site in site_map.sites:
            feeders = (
                f", skipped with it: {' '.join(feeder.removeprefix(f'{site.block}.') for feeder in site.feeders)}"
                if site.feeders
                else ""
            )
            click.echo(f"  {site.kind:8} layer {site.layer:3}  {site.path}{feeders}")


def _document(transformer: Any, site_map: Any) -> dict[str, Any]:
    return {
        "class": type(transformer).__name__,
        "source": site_map.source,
        "notes": list(site_map.notes),
        "sites": [site.to_document() for site in site_map.sites],
    }
