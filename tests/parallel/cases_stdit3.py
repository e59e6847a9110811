"""STDiT3 on several processes: each way, axis and layout, lengths that are not divided, each way of attention by itself."""

from functools import partial
from itertools import product

import torch

from pabtune.models.stdit3 import RotaryEmbedding, SelfAttention
from pabtune.parallel import dsp, megatron_sp, ulysses
from pabtune.parallel.attention_modules import decompose
from pabtune.parallel.collectives import Communicator, Traffic, padded
from pabtune.parallel.mesh import Mesh
from pabtune.parallel.splitting import split
from pabtune.planning.costs.communication import gathered
from pabtune.planning.layouts import AXES, EXCHANGING, Video
from pabtune.records.layouts import SEQUENCE_PARALLELS
from tests.conftest import draw, make_pipeline, make_transformer, pyramid
from tests.parallel.comparing import DEVICE, NONE, compare, error, layouts

HEADS, WIDTH, TOKENS, FRAMES = 2, 24, 36, 8

PROMPTS = ["a red square moves slowly to the left", "a blue circle stands still on black"]
SAMPLES = 2 * len(PROMPTS)
"""Of a call of STDiT3: both guidance branches of all prompts."""


def videos(whole: Mesh) -> list[dict]:
    """STDiT3: each way, axis and layout, with and without a policy."""
    rows = []
    for layout in layouts(whole.layout.sequence):
        mesh = Mesh(layout, DEVICE)
        # All processes on the sequence: every method; shared with samples or branches, one for each axis is enough.
        if layout.sequence == layout.gpus > 1:
            methods = list(product(AXES, SEQUENCE_PARALLELS))
        else:
            methods = [("frames", "dsp"), ("tokens", "ulysses")] if layout.sequence > 1 else [("frames", "dsp")]
        for axis, parallel in methods:
            for used in (NONE, pyramid()):
                predict = partial(predict_stdit3, layout=layout, parallel=parallel, axis=axis)
                row = compare(stdit3, drawn_by_stdit3, mesh, used, predict, exchange=parallel, axis=axis)
                rows.append(row)
    return rows


def stdit3():
    return make_pipeline().to(DEVICE)


def drawn_by_stdit3(pipeline):
    return draw(pipeline, PROMPTS)


def predict_stdit3(active, sharded, calls: int, layout, parallel: str, axis: str) -> list[dict]:
    """Per call of the transformer, which is one step."""
    samples, kind = SAMPLES // layout.branches // layout.samples, EXCHANGING[axis]
    video = Video(frames=FRAMES, tokens=TOKENS, bytes_per_token=WIDTH * 4 * samples, heads=HEADS)
    # Frames of 24x24 pixels and four channels; tokens as patches of 4x4 pixels.
    length, per_place = (FRAMES, 24 * 24 * 4 * 4) if axis == "frames" else (TOKENS, FRAMES * 16 * 4 * 4)
    out = gathered(layout.sequence, 1, length, per_place * samples)
    for size, among in ((layout.samples, samples), (layout.branches, samples * layout.samples)):
        out += gathered(size, 1, size, among * FRAMES * 24 * 24 * 4 * 4)
    rows = [row for site, row in zip(active.mask.sites, active.mask.compute, strict=True) if site.kind == kind]
    steps = []
    for step in range(calls):
        sent = video.sent(axis, parallel, layout.sequence, sum(int(row[step]) for row in rows))
        steps.append({kind: (sent.messages, round(sent.wire_bytes)), "output": (out.messages, round(out.wire_bytes))})
    return steps


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
            for axis in AXES:
                for parallel in SEQUENCE_PARALLELS:
                    transformer = make_transformer()
                    with torch.no_grad():
                        reference = transformer(**arguments).sample
                        split(transformer, mesh, parallel, axis)
                        output = transformer(**arguments).sample
                    rows.append({"case": [frames, size, masked, parallel, axis], "error": error(output, reference)})
    return rows


def ways(mesh: Mesh) -> list[dict]:
    """Each way of temporal attention by itself: this process' frames of what the module makes of all of them."""
    rows = []
    exchange, processes = Communicator(mesh, "sequence", Traffic()), mesh.layout.sequence
    for frames, tokens, heads, width in ((6, 4, 2, 24), (5, 7, 4, 24), (1, 3, 2, 24), (35, 2, 2, 24)):
        torch.manual_seed(frames)
        module = SelfAttention(width, heads, qk_norm=True, temporal=True).eval()
        whole, rope = torch.randn(2, frames, tokens, width), RotaryEmbedding(width // heads)(frames)
        own = padded(whole, 1, processes).chunk(processes, dim=1)[exchange.rank]
        with torch.no_grad():
            for rotary in (None, rope):
                expected = padded(module(whole, rotary), 1, processes).chunk(processes, dim=1)[exchange.rank]
                real = max(0, min(frames - exchange.rank * own.shape[1], own.shape[1]))
                rest = (own, rotary, frames, exchange, "temporal")
                found = {
                    "dsp": dsp.attend(module.forward, *rest),
                    "ulysses": ulysses.attend(decompose(module), *rest),
                    "megatron-sp": megatron_sp.attend(decompose(module), *rest),
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
