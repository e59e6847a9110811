"""Splitting a model's transformers over processes, from outside: the sequence, guidance branches, the samples of a call.

Attach before a policy is enabled: what a policy skips then sends nothing. All processes make the same calls with the same
arguments and get the same output.
"""

from diffusers import DiffusionPipeline
from torch import nn

from pabtune.parallel.attachment import ShardedModel, has_hooks, is_compiled, is_offloaded
from pabtune.parallel.batch import BatchHook
from pabtune.parallel.cfg import CfgHook
from pabtune.parallel.head_parallel import split_heads
from pabtune.parallel.mesh import Mesh
from pabtune.parallel.plans import find_plan
from pabtune.parallel.spatial_temporal import split_axis
from pabtune.parallel.token_parallel import split_tokens
from pabtune.planning.sharding import AXES_OF
from pabtune.records.errors import ParallelError
from pabtune.records.layouts import SEQUENCE_PARALLELS, Axis, SequenceParallel
from pabtune.runtime.interception import PARALLEL_HOOK
from pabtune.runtime.targets import Target


def split(
    model: DiffusionPipeline | nn.Module, mesh: Mesh, exchange: SequenceParallel = "dsp", axis: Axis = "frames"
) -> ShardedModel:
    """Splits a model's transformers over the processes of a mesh; every process calls it, before a policy is enabled.

    Args:
        model: a pipeline or a transformer.
        mesh: the processes.
        exchange: how attention along the split axis of spatial-temporal models exchanges. Full attention is always shared by
            heads: with tokens cut through the network where its class has a plan, else inside each site.
        axis: the axis of spatial-temporal models that is split: `frames` or `tokens`.

    Raises:
        ParallelError: nothing of a transformer can be shared, or not along this axis; a policy or offloading is enabled
            already, or the transformer is compiled as a whole.
    """
    if exchange not in SEQUENCE_PARALLELS:
        raise ParallelError(f"unknown method {exchange!r}; known: {', '.join(SEQUENCE_PARALLELS)}")
    target = Target.of(model)
    for name, transformer in target.transformers.items():
        if has_hooks(transformer):
            raise ParallelError(
                "the transformer has hooks: split it once, and before a policy, a cache or offloading is enabled"
            )
        _check_plain(transformer, target.callers[name])
    sharded = ShardedModel(mesh, exchange)
    try:
        for transformer in target.transformers.values():
            if mesh.layout.sequence > 1:
                _split_sequence(sharded, transformer, axis, type(model).__name__)
            if mesh.layout.samples > 1:
                sharded.hook(transformer, BatchHook(sharded.samples), f"{PARALLEL_HOOK}_batch")
            sharded.hook(transformer, CfgHook(sharded))
    except BaseException:
        sharded.remove()
        raise
    return sharded


def axes_of(pipeline: DiffusionPipeline) -> tuple[Axis, ...]:
    """Axes along which a pipeline's transformer can be split."""
    names = [type(each).__name__ for each in Target.of(pipeline).transformers.values()]
    return next((AXES_OF[name] for name in names if name in AXES_OF), ("sequence",))


def has_plans(pipeline: DiffusionPipeline) -> bool:
    """Whether the tokens of all full-attention transformers of a pipeline are cut through the network."""
    name = type(pipeline).__name__
    return all(find_plan(each, name) is not None for each in Target.of(pipeline).transformers.values())


def _check_plain(transformer: nn.Module, caller: nn.Module) -> None:
    """Refuses what would take the hooks away, or skip them."""
    if caller is not transformer or is_compiled(transformer):
        raise ParallelError(
            "the transformer is compiled as a whole, and processes cannot exchange inside; compile its blocks: "
            "compile_repeated_blocks(fullgraph=False)"
        )
    if any(is_offloaded(module) for module in transformer.modules()):
        raise ParallelError(
            "weights of the transformer are offloaded, or spread over devices: load it as a whole, split it, then enable "
            "offloading"
        )


def _split_sequence(sharded: ShardedModel, transformer: nn.Module, axis: Axis, pipeline: str) -> None:
    if type(transformer).__name__ in AXES_OF:
        split_axis(sharded, transformer, axis)
        return
    plan = find_plan(transformer, pipeline)
    if plan is not None:
        split_tokens(sharded, transformer, plan)
    else:
        split_heads(sharded, transformer)
