"""Splitting a transformer over processes, from outside: its sequence, its guidance branches, the samples of a call.

Attach before a policy is enabled: what a policy skips then sends nothing. All processes make the same calls with the same
arguments and get the same output.
"""

import inspect
from collections.abc import Callable
from typing import Any

from diffusers import DiffusionPipeline
from diffusers.hooks import HookRegistry, ModelHook
from torch import nn

from pabtune.catalog import CATALOG, Catalog, TokenSplit
from pabtune.models.sites import SiteMap
from pabtune.parallel.attention import Rotary
from pabtune.parallel.collectives import Exchange, Traffic
from pabtune.parallel.full import split_tokens
from pabtune.parallel.inside import split_inside
from pabtune.parallel.mesh import Mesh
from pabtune.parallel.plans import find_plan
from pabtune.parallel.samples import SamplesHook
from pabtune.parallel.spatial_temporal import split_axis
from pabtune.planning.costs.communication import PARALLELS, Parallel
from pabtune.planning.sharding import Axis
from pabtune.records.errors import ParallelError
from pabtune.runtime.interception import PARALLEL_HOOK, remove_hook
from pabtune.runtime.targets import Target

ChangeArguments = Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], tuple[tuple[Any, ...], dict[str, Any]]]
"""From a module and the arguments of its call to those that it gets."""

ChangeOutput = Callable[[Any], Any]
"""From what a module's call returns to what its caller gets."""


class Split:
    """A model that is split over the processes of a mesh. Made by `split`.

    Attributes:
        mesh: the processes.
        parallel: how attention along the split axis exchanges.
        traffic: what this process sent.
        sequence, branches, samples, everyone: exchanges with those that share each, and with all.
        batch: samples that the transformer is called with, in this process.
        whole: places along the split axis of the whole video, while a call goes on.
        rotary: rotary embedding of these places, if there is one.
    """

    def __init__(self, mesh: Mesh, parallel: Parallel) -> None:
        self.mesh = mesh
        self.parallel = parallel
        self.traffic = Traffic()
        self.sequence = Exchange(mesh, "sequence", self.traffic)
        self.branches = Exchange(mesh, "branches", self.traffic)
        self.samples = Exchange(mesh, "samples", self.traffic)
        self.everyone = Exchange(mesh, "everything", self.traffic)
        self.batch = 0
        self.whole = 0
        self.rotary: Rotary | None = None
        self._undo: list[Callable[[], None]] = []

    def remove(self) -> None:
        """Leaves the model as it was."""
        while self._undo:
            self._undo.pop()()

    def hook(self, module: nn.Module, hook: ModelHook, name: str = PARALLEL_HOOK) -> None:
        """Puts a hook on a module until `remove`."""
        had_registry, had_forward = hasattr(module, "_diffusers_hook"), "forward" in vars(module)
        HookRegistry.check_if_exists_or_initialize(module).register_hook(hook, name)
        forward = module.forward

        def undo() -> None:
            remove_hook(module, name, forward)
            if module._diffusers_hook.hooks:
                return
            if not had_registry:
                del module._diffusers_hook
            if not had_forward and not hasattr(module, "_hf_hook"):
                vars(module).pop("forward", None)

        self._undo.append(undo)

    def before(self, module: nn.Module, change: ChangeArguments) -> None:
        """Changes the arguments of a module's calls until `remove`, also of those that a policy answers by itself."""
        self._undo.append(module.register_forward_pre_hook(change, with_kwargs=True).remove)

    def after(self, module: nn.Module, change: ChangeOutput) -> None:
        """Changes what a module's calls return until `remove`, also of those that a policy answers by itself."""
        self._undo.append(module.register_forward_hook(lambda _module, _args, output: change(output)).remove)

    def patch(self, owner: Any, name: str, value: Any) -> None:
        """Shadows an attribute of an object until `remove`."""
        before = {name: vars(owner)[name]} if name in vars(owner) else {}
        setattr(owner, name, value)

        def undo() -> None:
            vars(owner).pop(name, None)
            vars(owner).update(before)

        self._undo.append(undo)

    @staticmethod
    def bind(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> inspect.BoundArguments:
        """The arguments of a module's call, which can be read and replaced by name."""
        return inspect.signature(module.__class__.forward.__get__(module)).bind(*args, **kwargs)


def split(
    model: DiffusionPipeline | nn.Module,
    mesh: Mesh,
    parallel: Parallel = "dsp",
    axis: Axis = "frames",
    catalog: Catalog = CATALOG,
) -> Split:
    """Splits a model's transformers over the processes of a mesh; every process calls it, before a policy is enabled.

    Args:
        model: a pipeline or a transformer.
        mesh: the processes.
        parallel: how attention along the split axis of spatial-temporal models exchanges: `dsp`, `ulysses` or `megatron-sp`.
            Full attention is shared by heads: with tokens cut through the network where its class has a plan, else inside
            each site.
        axis: of spatial-temporal models, which is split: `frames` or `tokens`.
        catalog: what is known of transformer classes.

    Raises:
        ParallelError: nothing of a transformer can be shared, another way or axis; a policy or offloading is enabled
            already, or the transformer is compiled as a whole.
    """
    if parallel not in PARALLELS:
        raise ParallelError(f"unknown way {parallel!r}; known: {', '.join(PARALLELS)}")
    target = Target.of(model, catalog)
    transformers = target.transformers
    for name, transformer in transformers.items():
        if getattr(transformer, "_diffusers_hook", None) is not None and transformer._diffusers_hook.hooks:
            raise ParallelError(
                "the transformer has hooks: split it once, and before a policy, a cache or offloading is enabled"
            )
        _check_plain(transformer, target.callers[name])
    made = Split(mesh, parallel)
    try:
        for name, transformer in transformers.items():
            if mesh.layout.sequence > 1:
                plan = find_plan(transformer, type(model).__name__, catalog)
                _split_sequence(made, transformer, axis, plan, target.maps[name])
            made.hook(transformer, SamplesHook(made, target.maps[name].card))
    except BaseException:
        made.remove()
        raise
    return made


def _check_plain(transformer: nn.Module, caller: nn.Module) -> None:
    """Refuses what would take the split's hooks away, or skip them."""
    if caller is not transformer or transformer._compiled_call_impl is not None:
        raise ParallelError(
            "the transformer is compiled as a whole, and processes cannot exchange inside; compile its blocks: "
            "compile_repeated_blocks(fullgraph=False)"
        )
    if any(hasattr(module, "_hf_hook") for module in transformer.modules()):
        raise ParallelError(
            "weights of the transformer are offloaded, or spread over devices: load it as a whole, split it, then enable "
            "offloading"
        )


def _split_sequence(made: Split, transformer: nn.Module, axis: Axis, plan: TokenSplit | None, known: SiteMap) -> None:
    if known.card is not None and known.card.axes:
        split_axis(made, transformer, axis, known.card.axes)
    elif plan is not None:
        split_tokens(made, transformer, plan, known.sites)
    else:
        split_inside(made, transformer, known.sites)


def describe_split(pipeline: DiffusionPipeline, catalog: Catalog = CATALOG) -> str:
    """How the sequence of a full-attention model is split, in words; and why not by tokens where its card says so."""
    name, target = type(pipeline).__name__, Target.of(pipeline, catalog)
    if all(find_plan(each, name, catalog) is not None for each in target.transformers.values()):
        return "tokens split, attention by heads"
    why = [
        objection
        for key, transformer in target.transformers.items()
        if (card := target.maps[key].card) is not None and card.token_split is not None
        for objection in card.token_split.objections(getattr(transformer, "config", {}), name)
    ]
    return "; ".join(["attention split by heads and MLPs by tokens, inside each", *dict.fromkeys(why)])
