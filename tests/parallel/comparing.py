"""Compares a video of one process with that of several: error, and traffic as counted by the code and by torch."""

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
    """All layouts of a number of processes, without an axis."""
    options = [ParallelLayout.over(processes)]
    if processes % 2 == 0:
        options += [ParallelLayout.over(processes, samples=2), ParallelLayout.over(processes, branches=2)]
    if processes % 4 == 0:
        options.append(ParallelLayout.over(processes, branches=2, samples=2))
    return options


def error(output, reference) -> float:
    """Relative error in the 2-norm."""
    output, reference = (torch.as_tensor(each).double() for each in (output, reference))
    return float((output - reference).norm() / reference.norm())


class Dispatched(TorchDispatchMode):
    """Counts collectives and the bytes that leave this process as torch dispatches them, except those of objects (integers).

    Args:
        size: number of processes that share the sequence, which alone make all-to-alls.
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


def per_call(sharded: ShardedModel, transformers, generate) -> list[dict[str, tuple[int, int]]]:
    """Messages and bytes of each call of a transformer, by purpose."""
    totals = []

    def record(*_) -> None:
        totals.append((Counter(sharded.traffic.messages), Counter(sharded.traffic.bytes)))

    handles = [each.register_forward_hook(record, always_call=True) for each in transformers]
    sharded.traffic.clear()
    try:
        generate()
    finally:
        for handle in handles:
            handle.remove()
    before = (Counter(), Counter())
    calls = []
    for now in totals:
        calls.append({name: (now[0][name] - before[0][name], now[1][name] - before[1][name]) for name in now[0]})
        before = now
    return calls


def compare(make, generate, mesh: Mesh, policy: pabtune.Policy, predict, **options) -> dict:
    """Compares a video of one process with that of several.

    Args:
        make: makes the pipeline.
        generate: generates a video with a pipeline.
        mesh: the processes.
        policy: the policy of both runs.
        predict: from the run, the sharded model and the number of calls, (messages, bytes) of each call by purpose.
        options: further arguments of `split`.
    """
    pipeline = make()
    with pabtune.broadcast(pipeline, policy):
        reference = generate(pipeline)
    sharded = split(pipeline, mesh, **options)
    try:
        with pabtune.broadcast(pipeline, policy) as active:
            transformers = _transformers(pipeline)
            outputs = []
            with Dispatched(mesh.layout.sequence) as dispatched:
                calls = per_call(sharded, transformers, lambda: outputs.append(generate(pipeline)))
        predicted = predict(active, sharded, len(calls))
    finally:
        sharded.remove()
    return {
        "layout": [mesh.layout.samples, mesh.layout.branches, mesh.layout.sequence], "policy": policy.name, **options,
        "error": error(outputs[0], reference), "restored": error(generate(pipeline), generate(make())),
        "sent": [sum(sharded.traffic.messages.values()), sum(sharded.traffic.bytes.values())],
        "dispatched": [dispatched.messages, dispatched.bytes],
        "calls": calls, "predicted": predicted, "broadcast": sum(active.summary()["broadcast_calls"].values()),
    }  # fmt: skip


def _transformers(pipeline) -> list:
    return [part for name, part in pipeline.components.items() if name.startswith("transformer") and part is not None]
