"""One of several processes: draws alone and together with the others, and tells how far the two are apart.

    python worker.py OUT.json CASE

Every process draws the whole video alone first, so that it needs nobody to compare with.
"""

import json
import os
import sys
import time
from pathlib import Path

import torch

import pabtune
from pabtune.models.stdit3 import RotaryEmbedding, SelfAttention
from pabtune.parallel.collectives import Exchange, Traffic, padded
from pabtune.parallel.mesh import Mesh, choose_layout
from pabtune.parallel.split import split
from pabtune.parallel.temporal import by_gathering, by_heads, by_tokens
from pabtune.planning.costs.communication import PARALLELS, exchanged
from pabtune.records.errors import PabtuneError
from tests.conftest import STEPS, draw, make_pipeline, make_transformer, pyramid

DEVICE = os.environ.get("WORKER_DEVICE", "cpu")
"""`cuda`: each process has a GPU of its own."""

HEADS, WIDTH, TOKENS, FRAMES = 2, 24, 36, 8


def error(found, expected) -> float:
    found, expected = (torch.as_tensor(each).double() for each in (found, expected))
    return float((found - expected).norm() / expected.norm())


def videos(whole: Mesh) -> list[dict]:
    """Each way and layout, with and without a policy, against one process; what was sent against what was predicted."""
    rows = []
    for split_branches in (False, True):
        layout = choose_layout(whole.layout.sequence, split_branches=split_branches)
        mesh = Mesh(layout, DEVICE)
        for parallel in PARALLELS:
            pipeline = make_pipeline().to(DEVICE)
            for policy in (None, pyramid()):
                used = policy or pabtune.Policy(name="none")
                with pabtune.broadcast(pipeline, used):
                    alone = draw(pipeline)
                made = split(pipeline, mesh, parallel)
                with pabtune.broadcast(pipeline, used) as run:
                    together = draw(pipeline)
                made.remove()
                computed = sum(
                    count for (_, name), count in run.computed_calls.items() if "temporal_blocks" in name and "attn" in name
                    and "cross" not in name
                )  # fmt: skip
                per_token = WIDTH * 4 * 2 // layout.branches
                expected = exchanged(parallel, layout.sequence, computed, FRAMES, TOKENS, per_token, HEADS)
                sent = made.traffic.to_document()
                rows.append(
                    {
                        "layout": [layout.branches, layout.sequence], "parallel": parallel, "policy": used.name,
                        "error": error(together, alone), "restored": error(draw(pipeline), draw(make_pipeline().to(DEVICE))),
                        "sent": sent.get("temporal attention", {"messages": 0, "bytes": 0}), "output": sent["output"],
                        "expected": {"messages": expected.messages, "bytes": round(expected.wire_bytes)},
                        "computed": computed,
                    }
                )  # fmt: skip
    return rows


def lengths(mesh: Mesh) -> list[dict]:
    """Numbers of frames and tokens that the processes do not divide, and given frames."""
    rows = []
    for frames, size in ((1, 8), (3, 12), (5, 20), (7, 24)):
        for masked in (False, True):
            torch.manual_seed(frames)
            arguments = {
                "hidden_states": torch.randn(2, 4, frames, size, size + 4),
                "timestep": torch.full((2,), 400.0),
                "encoder_hidden_states": torch.randn(2, 24, 16),
                "x_mask": torch.arange(frames)[None] > 0 if masked else None,
            }
            for parallel in PARALLELS:
                transformer = make_transformer()
                with torch.no_grad():
                    alone = transformer(**arguments).sample
                    split(transformer, mesh, parallel)
                    rows.append(
                        {
                            "case": [frames, size, masked, parallel],
                            "error": error(transformer(**arguments).sample, alone),
                        }
                    )
    return rows


def ways(mesh: Mesh) -> list[dict]:
    """Each way of temporal attention by itself: this process' frames of what the module makes of all of them."""
    rows = []
    exchange, processes = Exchange(mesh, "sequence", Traffic()), mesh.layout.sequence
    for frames, tokens, heads, width in ((6, 4, 2, 24), (5, 7, 4, 24), (1, 3, 2, 24), (35, 2, 2, 24)):
        torch.manual_seed(frames)
        module = SelfAttention(width, heads, qk_norm=True, temporal=True).eval()
        whole, rope = torch.randn(2, frames, tokens, width), RotaryEmbedding(width // heads)(frames)
        own = padded(whole, 1, processes).chunk(processes, dim=1)[exchange.rank]
        with torch.no_grad():
            for rotary in (None, rope):
                expected = padded(module(whole, rotary), 1, processes).chunk(processes, dim=1)[exchange.rank]
                real = max(0, min(frames - exchange.rank * own.shape[1], own.shape[1]))
                found = {
                    "dsp": by_tokens(module.forward, own, rotary, frames, exchange),
                    "ulysses": by_heads(module, own, rotary, frames, exchange),
                    "megatron-sp": by_gathering(module, own, rotary, frames, exchange),
                }
                for way, part in found.items():
                    apart = (part[:, :real] - expected[:, :real]).abs().max() if real else torch.zeros(())
                    rows.append(
                        {
                            "way": way,
                            "frames": frames,
                            "shape": list(part.shape),
                            "own": list(own.shape),
                            "apart": float(apart),
                        }
                    )
    return rows


def until_stopped(case: str, mesh: Mesh) -> None:
    """Draws with the others until one of them stops, or does not agree."""
    if case == "disagree":
        mesh.agree({"policy": "same", "prompt": f"a prompt of rank {mesh.sequence_rank}"})
    pipeline = make_pipeline()
    split(pipeline, mesh)
    if case in ("raise", "kill") and mesh.sequence_rank == mesh.layout.sequence - 1:
        time.sleep(0.5)
        if case == "kill":
            os.kill(os.getpid(), 9)
        raise RuntimeError("broken on purpose")
    while True:
        draw(pipeline, num_inference_steps=STEPS)


def main() -> None:
    out, case = Path(sys.argv[1]), sys.argv[2]
    rank, processes = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    cases = {"videos": videos, "lengths": lengths, "ways": ways}
    with Mesh(choose_layout(processes, split_branches=False), DEVICE) as mesh:
        if case not in cases:
            until_stopped(case, mesh)
        rows = cases[case](mesh)
    out.with_stem(f"{out.stem}-{rank}").write_text(json.dumps(rows))


if __name__ == "__main__":
    try:
        main()
    except (PabtuneError, RuntimeError) as problem:
        from pabtune.parallel.launch import report_failure

        report_failure(str(problem))
        raise
