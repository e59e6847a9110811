"""`pabtune bench-links`: how fast processes exchange."""

import os
import sys
from pathlib import Path

import click

from pabtune.cli import options
from pabtune.cli.output import emit, is_first, say
from pabtune.cli.sharing import COMMAND
from pabtune.records.files import check_writable


@click.command()
@click.option(
    "--gpus", type=click.IntRange(min=2), default=2, show_default=True, help="Processes; under torchrun: its own."
)
@click.option("--repeats", type=click.IntRange(min=1), default=9, show_default=True, help="Of each size of message.")
@options.out_option("Link file (.json), for `pabtune cost --link`.")
@options.device_option
@options.json_option
@click.pass_context
def command(ctx: click.Context, gpus: int, repeats: int, out: Path, device: str, as_json: bool) -> None:
    """Measure all-to-alls between processes; fit what a message takes, and how many bytes leave a process per second."""
    check_writable(out)
    from pabtune.parallel.launch import launch
    from pabtune.parallel.mesh import Mesh, choose_layout, is_launched

    if not is_launched():
        ctx.exit(launch(gpus, [sys.executable, "-c", COMMAND, *sys.argv[1:]]))
    import torch

    from pabtune.parallel.links import measure_links
    from pabtune.tuning.profile import versions

    with Mesh(choose_layout(int(os.environ["WORLD_SIZE"])), device) as mesh:
        mesh.agree({"options": (repeats, versions())})
        own = torch.device(device, int(os.environ["LOCAL_RANK"])) if device == "cuda" else torch.device(device)
        link = measure_links(mesh, out.stem, own, repeats, versions())
    if not is_first():
        return
    link.save(out)
    say(
        f"{link.seconds * 1e6:.1f} microseconds for a message, {link.bytes_per_second / 1e9:.2f} GB per second -> {out}"
    )
    if as_json:
        emit(link.to_document())
