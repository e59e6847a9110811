"""`pabtune demo-parallel`: the embedded model on several processes, with and without a policy."""

from typing import Any

import click

from pabtune.cli.layout import start_processes
from pabtune.cli.options import json_option, load_model
from pabtune.cli.output import emit, say
from pabtune.parallel.process import is_first, world_size
from pabtune.planning.costs.communication import AttentionShape, exchanged
from pabtune.planning.presets import find_policy
from pabtune.records.layouts import SEQUENCE_PARALLELS, ParallelLayout, SequenceParallel
from pabtune.records.prompts import Prompt

PROMPT = Prompt(prompt="a red square moves slowly to the left", seed=1)
LARGEST_ERROR = 1e-5
"""Relative error: a different order of sums in 32 bits makes less."""


@click.command()
@click.option(
    "--gpus", type=click.IntRange(min=2), default=2, show_default=True, help="Number of processes (gloo, on the CPU)."
)
@click.option(
    "--sequence-parallel", type=click.Choice(SEQUENCE_PARALLELS), default="dsp", show_default=True,
    help="How temporal attention communicates.",
)  # fmt: skip
@click.option("--policy", "name", default="pab246", show_default=True, help="Preset or policy file.")
@json_option
@click.pass_context
def command(ctx: click.Context, gpus: int, sequence_parallel: SequenceParallel, name: str, as_json: bool) -> None:
    """Generate a video on one process and on several; count their communication with and without a policy.

    Exit code 1: the videos differ, or the communication is not as predicted.
    """
    policy = find_policy(name)
    code = start_processes(gpus)
    if code is not None:
        ctx.exit(code)
    from pabtune.parallel.mesh import Mesh

    layout = ParallelLayout.over(world_size(), exchange=sequence_parallel, axis="frames")
    pipeline = load_model("shapes", "cpu", "float32")
    with Mesh(layout) as mesh:
        mesh.agree({"policy": policy.digest, "layout": layout})
        rows = [_compare(pipeline, mesh, each) for each in (find_policy("none"), policy)]
    if is_first() and as_json:
        emit({"layout": layout.to_document(), "videos": rows})
    say(f"{layout.gpus} processes share a video of `shapes`: {layout}")
    for row in rows:
        sent, predicted = row["sent"], row["predicted"]
        say(
            f"  {row['policy']:20} {sent['messages']:4} messages ({predicted['messages']} predicted), "
            f"{sent['bytes']:>11,} bytes ({predicted['bytes']:,} predicted); "
            f"relative error against one process {row['error']:.1e}"
        )
    if not all(row["is_same"] for row in rows):
        say("the videos differ, or the communication is not as predicted")
        ctx.exit(1)


def _compare(pipeline: Any, mesh: Any, policy: Any) -> dict[str, Any]:
    """Generates a video on one process and on all; compares them, and sent with predicted bytes of temporal attention."""
    import numpy as np
    import torch

    from pabtune.models.shapes.world import FRAME_SIZE, FRAMES
    from pabtune.parallel.splitting import split
    from pabtune.runtime.engine import broadcast

    def generate() -> tuple[Any, Any]:
        with broadcast(pipeline, policy) as run:
            frames = pipeline(PROMPT.prompt, generator=torch.Generator().manual_seed(PROMPT.seed)).frames
        return frames.astype(np.float64), run

    reference, _ = generate()
    sharded = split(pipeline, mesh, mesh.layout.exchange)
    try:
        output, run = generate()
    finally:
        sharded.remove()
    config = pipeline.transformer.config
    tokens = (FRAME_SIZE // config.patch_size[1]) * (FRAME_SIZE // config.patch_size[2])
    state = 2 * config.hidden_size * 4  # both guidance branches, 32 bits
    computed = run.summary()["computed_calls"]["temporal"]
    shape = AttentionShape(length=FRAMES, other=tokens, bytes_per_token=state, heads=config.num_heads)
    expected = exchanged(mesh.layout.exchange, mesh.layout.sequence, computed, shape)
    sent = sharded.traffic.to_document().get("temporal", {"messages": 0, "bytes": 0})
    predicted = {"messages": expected.messages, "bytes": round(expected.wire_bytes)}
    error = float(np.linalg.norm(output - reference) / np.linalg.norm(reference))
    return {
        "policy": policy.name,
        "error": error,
        "sent": sent,
        "predicted": predicted,
        "is_same": error < LARGEST_ERROR and sent == predicted,
    }
