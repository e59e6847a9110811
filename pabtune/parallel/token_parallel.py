"""Splitting the tokens of a full-attention transformer: cuts tensors, attends by Ulysses, gathers the output.

Shapes: N tokens of the entire video, n = N / P in this process (N padded to a multiple of P processes).
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from diffusers.hooks import ModelHook
from torch import Tensor, nn

from pabtune.catalog import Cut, TokenSplit
from pabtune.parallel.call_state import CallScope, CallState
from pabtune.parallel.collectives import OUTPUT, Communicator
from pabtune.parallel.kernel import check_kernel
from pabtune.parallel.plans import modules_at
from pabtune.parallel.sharded_model import ShardedModel, bind_arguments
from pabtune.parallel.ulysses import UlyssesKernel
from pabtune.records.errors import ParallelError
from pabtune.records.sites import Site
from pabtune.runtime.interception import PARALLEL_HOOK

KIND = "full"
"""Kind of the sites that communicate, and the label of their traffic."""


def split_tokens(sharded: ShardedModel, transformer: nn.Module, plan: TokenSplit, sites: Sequence[Site]) -> None:
    """Splits a transformer by its token split.

    Args:
        sharded: the split model, which records the hooks.
        transformer: a transformer of a class with a token split.
        plan: its token split, resolved by `find_plan`.
        sites: its sites.

    Raises:
        ParallelError: attention uses another kernel than torch's.
    """
    check_kernel()
    communicator, scope = sharded.sequence, CallScope()
    cuts: dict[str, list[Cut]] = {"": []}
    for cut in plan.cuts:
        cuts.setdefault(cut.module, []).append(cut)
    sharded.hook(
        transformer, _CallHook(_Cutting(communicator, scope, cuts.pop("")), scope, plan), f"{PARALLEL_HOOK}_call"
    )
    for path, module_cuts in cuts.items():
        for module in modules_at(transformer, path):
            cutting = _Cutting(communicator, scope, module_cuts)
            sharded.before(module, cutting.arguments)
            sharded.after(module, cutting.output)
    for site in sites:
        if site.kind == KIND:
            sharded.hook(transformer.get_submodule(site.path), _AttentionHook(communicator, scope, plan))
    (end,) = modules_at(transformer, plan.end)
    sharded.after(end, partial(_gather, communicator, scope, plan.dim))


def _gather(communicator: Communicator, scope: CallScope, dim: int, output: Any) -> Any:
    """Gathers the tokens of a module's output, or of the first of its outputs."""
    local, *rest = (output,) if isinstance(output, Tensor) else output
    tokens = communicator.all_gather(local, dim, OUTPUT).narrow(dim, 0, scope.state.length)
    return tokens if isinstance(output, Tensor) else (tokens, *rest)


class _Cutting:
    """Cuts a module's arguments and outputs to this process' tokens."""

    def __init__(self, communicator: Communicator, scope: CallScope, cuts: list[Cut]) -> None:
        self._communicator, self._scope = communicator, scope
        self._arguments = [(cut.of, cut) for cut in cuts if isinstance(cut.of, str)]
        self._outputs = {cut.of: cut for cut in cuts if isinstance(cut.of, int)}

    def arguments(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments of a call, cut; keyword arguments stay keyword arguments."""
        values, positional = bind_arguments(module, args, kwargs).arguments, [*args]
        for name, cut in self._arguments:
            if values.get(name) is None:
                continue
            values[name] = self._cut(values[name], cut)
            if name in kwargs:
                kwargs = {**kwargs, name: values[name]}
            else:
                positional[list(values).index(name)] = values[name]
        return tuple(positional), kwargs

    def output(self, output: Any) -> Any:
        """Output of a call, cut."""
        if not self._outputs:
            return output
        if isinstance(output, Tensor):
            return self._cut(output, self._outputs[0])
        return tuple(
            self._cut(part, self._outputs[index]) if index in self._outputs else part
            for index, part in enumerate(output)
        )

    def _cut(self, value: Any, cut: Cut) -> Any:
        if isinstance(value, tuple | list):
            inner = replace(cut, item=None)
            return tuple(self._cut(part, inner) if cut.item in (None, at) else part for at, part in enumerate(value))
        if not isinstance(value, Tensor) or (
            cut.ndim is not None and (value.ndim != cut.ndim or value.shape[cut.dim] == 1)
        ):
            return value
        self._scope.state.length = value.shape[cut.dim]
        return self._communicator.shard(value, cut.dim)


class _CallHook(ModelHook):
    """Innermost hook on the transformer: opens the state of a call and cuts the transformer's own arguments."""

    def __init__(self, cutting: _Cutting, scope: CallScope, plan: TokenSplit) -> None:
        super().__init__()
        self._cutting, self._scope, self._plan = cutting, scope, plan

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Refuses calls to which the card objects, cuts the arguments and calls the transformer."""
        if self._plan.depends_on_arguments:
            values = bind_arguments(module, args, kwargs).arguments
            for objection in self._plan.objections({}, arguments=values):
                raise ParallelError(f"{type(module).__name__} cannot be split {objection}")
        with self._scope.call(CallState()):
            args, kwargs = self._cutting.arguments(module, args, kwargs)
            return self.fn_ref.original_forward(*args, **kwargs)


class _AttentionHook(ModelHook):
    """Hook on an attention that lets this process' tokens attend to all tokens."""

    def __init__(self, communicator: Communicator, scope: CallScope, plan: TokenSplit) -> None:
        super().__init__()
        self._communicator, self._scope, self._plan = communicator, scope, plan

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Calls the module with the Ulysses kernel."""
        length, communicator = self._scope.state.length, self._communicator
        kernel = UlyssesKernel(
            communicator, -(-length // communicator.size), length, text_first=self._plan.text_first,
            has_local_mask=self._plan.has_local_mask, purpose=KIND,
        )  # fmt: skip
        with kernel:
            output = self.fn_ref.original_forward(*args, **kwargs)
        if kernel.calls == 0:
            raise ParallelError(f"{type(module).__name__} does not use torch's attention kernel; it cannot be split")
        return output
