"""Splitting a model's transformers over processes from outside: chooses the strategy for sequence, branches and samples.

Split before a policy is enabled, so that calls that a policy skips send nothing. All processes make the same calls with the
same arguments and get the same output.
"""

from diffusers import DiffusionPipeline
from torch import nn

from pabtune.catalog import CATALOG, Catalog, TokenSplit
from pabtune.libraries.diffusers_internals import has_accelerate_hook, hook_names
from pabtune.libraries.torch_internals import compiled_call
from pabtune.models.sites import SiteMap
from pabtune.parallel.batch import BatchHook
from pabtune.parallel.cfg import CfgHook
from pabtune.parallel.head_parallel import split_heads
from pabtune.parallel.mesh import Mesh
from pabtune.parallel.plans import find_plan
from pabtune.parallel.sharded_model import ShardedModel
from pabtune.parallel.spatial_temporal import split_axis
from pabtune.parallel.token_parallel import split_tokens
from pabtune.records.errors import ParallelError
from pabtune.records.layouts import SEQUENCE_PARALLELS, Axis, SequenceParallel
from pabtune.runtime.interception import BATCH_HOOK
from pabtune.runtime.targets import Target


def split(
    model: DiffusionPipeline | nn.Module,
    mesh: Mesh,
    exchange: SequenceParallel = "dsp",
    axis: Axis = "frames",
    catalog: Catalog = CATALOG,
) -> ShardedModel:
    """Splits a model's transformers over the processes of a mesh; every process calls it, before a policy is enabled.

    Args:
        model: a pipeline or a transformer.
        mesh: the processes.
        exchange: method of sequence parallelism along the split axis of spatial-temporal models. Full attention is always
            split by heads, with tokens cut through the network where the card has a token split, else inside each site.
        axis: the axis of spatial-temporal models to split, `frames` or `tokens`.
        catalog: cards of transformer classes.

    Raises:
        ParallelError: a transformer cannot be split, or not along this axis; a policy or offloading is already enabled; or
            the transformer is compiled as a whole.
    """
    if exchange not in SEQUENCE_PARALLELS:
        raise ParallelError(f"unknown method {exchange!r}; known: {', '.join(SEQUENCE_PARALLELS)}")
    target = Target.of(model, catalog)
    for name, transformer in target.transformers.items():
        if hook_names(transformer):
            raise ParallelError(
                "the transformer already has hooks: split it once, and before a policy, a cache or offloading is enabled"
            )
        _check_plain(transformer, target.callers[name])
    sharded = ShardedModel(mesh, exchange)
    try:
        for name, transformer in target.transformers.items():
            if mesh.layout.sequence > 1:
                plan = find_plan(transformer, type(model).__name__, catalog)
                _split_sequence(sharded, transformer, axis, plan, target.maps[name])
            if mesh.layout.samples > 1:
                sharded.hook(transformer, BatchHook(sharded.samples), BATCH_HOOK)
            cfg = CfgHook(sharded.branches, name, target.maps[name].card)
            sharded.hook(transformer, cfg)
            if target.pipeline is not None:
                sharded.observe(target.pipeline, cfg)
    except BaseException:
        sharded.remove()
        raise
    return sharded


def axes_of(pipeline: DiffusionPipeline, catalog: Catalog = CATALOG) -> tuple[Axis, ...]:
    """Axes along which a pipeline's transformer can be split.

    Args:
        pipeline: a pipeline of any class.
        catalog: cards of transformer classes.
    """
    cards = [each.card for each in Target.of(pipeline, catalog).maps.values()]
    return next((card.axes for card in cards if card is not None and card.axes), ("sequence",))


def has_plans(pipeline: DiffusionPipeline, catalog: Catalog = CATALOG) -> bool:
    """Whether the tokens of all full-attention transformers of a pipeline are cut through the network.

    Args:
        pipeline: a pipeline of any class.
        catalog: cards of transformer classes.
    """
    name = type(pipeline).__name__
    return all(find_plan(each, name, catalog) for each in Target.of(pipeline, catalog).transformers.values())


def objections_to(pipeline: DiffusionPipeline, catalog: Catalog = CATALOG) -> tuple[str, ...]:
    """Objections of the cards of a pipeline's transformers to their own token splits.

    Args:
        pipeline: a pipeline of any class.
        catalog: cards of transformer classes.
    """
    target = Target.of(pipeline, catalog)
    reasons = [
        objection
        for name, transformer in target.transformers.items()
        if (card := target.maps[name].card) is not None and card.token_split is not None
        for objection in card.token_split.objections(getattr(transformer, "config", {}), type(pipeline).__name__)
    ]
    return tuple(dict.fromkeys(reasons))


def _check_plain(transformer: nn.Module, caller: nn.Module) -> None:
    """Refuses compiled and offloaded transformers, which would bypass or replace the hooks."""
    if caller is not transformer or compiled_call(transformer) is not None:
        raise ParallelError(
            "the transformer is compiled as a whole, so processes cannot communicate inside; compile its blocks: "
            "compile_repeated_blocks(fullgraph=False)"
        )
    if any(has_accelerate_hook(module) for module in transformer.modules()):
        raise ParallelError(
            "weights of the transformer are offloaded or distributed over devices: load it on one device, split it, then "
            "enable offloading"
        )


def _split_sequence(
    sharded: ShardedModel, transformer: nn.Module, axis: Axis, plan: TokenSplit | None, site_map: SiteMap
) -> None:
    if site_map.card is not None and site_map.card.axes:
        split_axis(sharded, transformer, axis, site_map.card.axes)
    elif plan is not None:
        split_tokens(sharded, transformer, plan, site_map.sites)
    else:
        split_heads(sharded, transformer, site_map.sites)
