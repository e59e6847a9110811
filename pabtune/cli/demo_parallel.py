"""`pabtune demo-parallel`: the embedded model on several processes, with and without a policy."""

import os
import sys
from typing import Any

import click

from pabtune.cli.options import json_option, load_model
from pabtune.cli.output import emit, is_first, say
from pabtune.cli.sharing import COMMAND
from pabtune.planning.costs.communication import PARALLELS, Parallel, exchanged
from pabtune.planning.presets import find_policy
from pabtune.records.prompts import Prompt

PROMPT = Prompt(prompt="a red square moves slowly to the left", seed=1)
LARGEST_ERROR = 1e-5
"""Relative: what another order of sums does in 32 bits."""


@click.command()
@click.option("--gpus", type=click.IntRange(min=2), default=2, show_default=True, help="Processes (gloo, on the CPU).")
@click.option(
    "--parallel", type=click.Choice(PARALLELS), default="dsp", show_default=True, help="How frames are exchanged."
)
@click.option("--policy", "name", default="pab246", show_default=True, help="Preset or policy file.")
@json_option
@click.pass_context
def command(ctx: click.Context, gpus: int, parallel: Parallel, name: str, as_json: bool) -> None:
    """Draw a video on one process and on several; count what they exchange, with and without a policy.

    Exit code 1: the videos differ, or the messages are not those that were predicted.
    """
    policy = find_policy(name)
    from pabtune.parallel.launch import launch
    from pabtune.parallel.mesh import Mesh, choose_layout, is_launched

    if not is_launched():
        ctx.exit(launch(gpus, [sys.executable, "-c", COMMAND, *sys.argv[1:]]))
    processes = int(os.environ["WORLD_SIZE"])
    pipeline = load_model("shapes", "cpu", "float32")
    with Mesh(choose_layout(processes)) as mesh:
        mesh.agree({"policy": policy.digest, "parallel": parallel})
        rows = [_compare(pipeline, mesh, parallel, each) for each in (find_policy("none"), policy)]
    if is_first() and as_json:
        emit({"processes": processes, "parallel": parallel, "videos": rows})
    say(f"{processes} processes share the frames of a video of `shapes`; temporal attention by {parallel}")
    for row in rows:
        sent, predicted = row["sent"], row["predicted"]
        say(
            f"  {row['policy']:20} {sent['messages']:4} messages ({predicted['messages']} predicted), "
            f"{sent['bytes']:>11,} bytes ({predicted['bytes']:,} predicted); "
            f"frames differ from those of one process by {row['error']:.1e}"
        )
    if not all(row["is_same"] for row in rows):
        say("the videos, or what was sent, are not what was predicted")
        ctx.exit(1)


def _compare(pipeline: Any, mesh: Any, parallel: Parallel, policy: Any) -> dict[str, Any]:
    """A video alone and together; what this process sent for temporal attention, and what it should have."""
    import numpy as np
    import torch

    from pabtune.models.shapes.world import FRAME_SIZE, FRAMES
    from pabtune.parallel.split import split
    from pabtune.runtime.engine import broadcast

    def draw() -> tuple[Any, Any]:
        with broadcast(pipeline, policy) as run:
            frames = pipeline(PROMPT.prompt, generator=torch.Generator().manual_seed(PROMPT.seed)).frames
        return frames.astype(np.float64), run

    alone, _ = draw()
    made = split(pipeline, mesh, parallel)
    try:
        together, run = draw()
    finally:
        made.remove()
    config = pipeline.transformer.config
    tokens = (FRAME_SIZE // config.patch_size[1]) * (FRAME_SIZE // config.patch_size[2])
    state = 2 * config.hidden_size * 4  # both guidance branches, 32 bits
    computed = run.summary()["computed_calls"]["temporal"]
    expected = exchanged(parallel, mesh.layout.sequence, computed, FRAMES, tokens, state, config.num_heads)
    sent = made.traffic.to_document().get("temporal", {"messages": 0, "bytes": 0})
    predicted = {"messages": expected.messages, "bytes": round(expected.wire_bytes)}
    error = float(np.linalg.norm(together - alone) / np.linalg.norm(alone))
    return {
        "policy": policy.name,
        "error": error,
        "sent": sent,
        "predicted": predicted,
        "is_same": error < LARGEST_ERROR and sent == predicted,
    }
