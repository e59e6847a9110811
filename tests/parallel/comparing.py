"""A video alone and together: how far apart, what was sent, by the code's own count and by torch's dispatcher."""

import os
from collections import Counter

import torch
from torch.utils._python_dispatch import TorchDispatchMode

import pabtune
from pabtune.parallel.mesh import Mesh
from pabtune.parallel.sharded_model import ShardedModel
from pabtune.parallel.splitting import split
from pabtune.records.layouts import ParallelLayout

DEVICE = os.environ.get("WORKER_DEVICE", "cpu")
"""`cuda`: each process has a GPU of its own."""

NONE = pabtune.Policy(name="none")


def layouts(processes: int) -> list:
    """All ways to share out so many processes."""
    found = [ParallelLayout.over(processes)]
    if processes % 2 == 0:
        found += [ParallelLayout.over(processes, samples=2), ParallelLayout.over(processes, branches=2)]
    if processes % 4 == 0:
        found.append(ParallelLayout.over(processes, branches=2, samples=2))
    return found


def error(found, expected) -> float:
    found, expected = (torch.as_tensor(each).double() for each in (found, expected))
    return float((found - expected).norm() / expected.norm())


class Dispatched(TorchDispatchMode):
    """Collectives and the bytes that leave this process, as torch dispatches them; objects, sent as integers, do not count.

    Args:
        size: processes that share the sequence: only they swap.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size, self.messages, self.bytes = size, 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = str(function)
        if "c10d.alltoall_base_" in name:
            self.messages += 1
            self.bytes += args[1].nbytes // self.size * (self.size - 1)
        elif "c10d.allgather_" in name and "coalesced" not in name and args[1][0].is_floating_point():
            self.messages += 1
            self.bytes += sum(part.nbytes for part in args[1]) * (len(args[0][0]) - 1)
        return function(*args, **(kwargs or {}))


def per_call(made: ShardedModel, transformers, drawing) -> list[dict[str, tuple[int, int]]]:
    """What each call of a transformer sent, by purpose."""
    totals = []

    def note(*_) -> None:
        totals.append((Counter(made.traffic.messages), Counter(made.traffic.bytes)))

    handles = [each.register_forward_hook(note, always_call=True) for each in transformers]
    made.traffic.clear()
    try:
        drawing()
    finally:
        for handle in handles:
            handle.remove()
    before = (Counter(), Counter())
    calls = []
    for now in totals:
        calls.append({name: (now[0][name] - before[0][name], now[1][name] - before[1][name]) for name in now[0]})
        before = now
    return calls


def compare(make, drawing, mesh: Mesh, used: pabtune.Policy, expected, **how) -> dict:
    """A video alone and together. `expected(run, split)` gives per call what each purpose sends, as (messages, bytes)."""
    pipeline = make()
    with pabtune.broadcast(pipeline, used):
        alone = drawing(pipeline)
    made = split(pipeline, mesh, **how)
    try:
        with pabtune.broadcast(pipeline, used) as active:
            transformers = _transformers(pipeline)
            together = []
            with Dispatched(mesh.layout.sequence) as dispatched:
                calls = per_call(made, transformers, lambda: together.append(drawing(pipeline)))
        predicted = expected(active, made, len(calls))
    finally:
        made.remove()
    return {
        "layout": [mesh.layout.samples, mesh.layout.branches, mesh.layout.sequence], "policy": used.name, **how,
        "error": error(together[0], alone), "restored": error(drawing(pipeline), drawing(make())),
        "sent": [sum(made.traffic.messages.values()), sum(made.traffic.bytes.values())],
        "dispatched": [dispatched.messages, dispatched.bytes],
        "calls": calls, "predicted": predicted, "broadcast": sum(active.summary()["broadcast_calls"].values()),
    }  # fmt: skip


def _transformers(pipeline) -> list:
    return [part for name, part in pipeline.components.items() if name.startswith("transformer") and part is not None]
