"""`pabtune bench-links`: measuring the interconnect between processes."""

from pathlib import Path

import click

from pabtune.cli import options
from pabtune.cli.layout import start_processes
from pabtune.cli.output import emit, say
from pabtune.parallel.process import is_first, world_size
from pabtune.records.layouts import ParallelLayout


@click.command()
@click.option(
    "--gpus",
    type=click.IntRange(min=2),
    default=2,
    show_default=True,
    help="Number of processes; under torchrun, those that it started.",
)
@click.option(
    "--repeats", type=click.IntRange(min=1), default=9, show_default=True, help="Measurements of each message size."
)
@options.out_option("Interconnect file (.json), for `pabtune cost --link`.")
@options.device_option
@options.json_option
@click.pass_context
def command(ctx: click.Context, gpus: int, repeats: int, out: Path, device: str, as_json: bool) -> None:
    """Measure all-to-alls between processes; fit the latency of a message and the bytes per second that leave a process."""
    options.check_json_out(out)
    options.find_device(device)
    code = start_processes(gpus)
    if code is not None:
        ctx.exit(code)
    import torch

    from pabtune.parallel.interconnect import measure_interconnect
    from pabtune.parallel.mesh import Mesh
    from pabtune.tuning.provenance import versions

    with Mesh(ParallelLayout.over(world_size()), device) as mesh:
        mesh.agree({"options": (repeats, versions())})
        interconnect = measure_interconnect(
            mesh, out.stem, torch.device(options.find_device(device)), repeats, versions()
        )
    if not is_first():
        return
    interconnect.save(out)
    say(
        f"latency {interconnect.latency_s * 1e6:.1f} microseconds, "
        f"bandwidth {interconnect.bytes_per_second / 1e9:.2f} GB per second -> {out}"
    )
    if as_json:
        emit(interconnect.to_document())
