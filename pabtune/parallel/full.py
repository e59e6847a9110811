"""Splitting the tokens of a full-attention transformer by a plan: cutting, sharing attention by heads, putting together.

Shapes: N tokens of the whole video, n = N / P of this process (N padded to a multiple of P).
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from diffusers.hooks import ModelHook
from torch import Tensor, nn

from pabtune.catalog import Cut, TokenSplit
from pabtune.parallel.collectives import padded
from pabtune.parallel.heads import SharedKernel, check_kernel
from pabtune.parallel.plans import modules_at
from pabtune.parallel.samples import OUTPUT
from pabtune.records.errors import ParallelError
from pabtune.records.sites import Site
from pabtune.runtime.interception import PARALLEL_HOOK

if TYPE_CHECKING:
    from pabtune.parallel.split import Split

KIND = "full"
"""Of the sites that exchange; what they send is counted under it."""


def split_tokens(split: "Split", transformer: nn.Module, plan: TokenSplit, sites: Sequence[Site]) -> None:
    """Splits a transformer by a plan.

    Args:
        split: takes note of what is to be undone.
        transformer: of a class with a plan.
        plan: of it.
        sites: of the transformer.

    Raises:
        ParallelError: attention goes through another kernel than torch's.
    """
    check_kernel()
    cuts: dict[str, list[Cut]] = {}
    for cut in plan.cuts:
        cuts.setdefault(cut.module, []).append(cut)
    for path, own in cuts.items():
        for module in modules_at(transformer, path):
            cutting = _Cutting(split, own)
            if not path:
                split.hook(module, _CutHook(cutting), f"{PARALLEL_HOOK}_cut")
                continue
            split.before(module, cutting.arguments)
            split.after(module, cutting.output)
    if plan.depends_on_arguments:
        split.hook(transformer, _RefuseHook(split, plan), f"{PARALLEL_HOOK}_refuse")
    for site in sites:
        if site.kind == KIND:
            split.hook(transformer.get_submodule(site.path), _AttentionHook(split, plan))
    (end,) = modules_at(transformer, plan.end)
    split.after(end, partial(_whole, split, plan.dim))


def _whole(split: "Split", dim: int, output: Any) -> Any:
    """All tokens of what a module returned, or of the first that it returned."""
    own, *rest = (output,) if isinstance(output, Tensor) else output
    whole = split.sequence.gather(own, dim, OUTPUT).narrow(dim, 0, split.whole)
    return whole if isinstance(output, Tensor) else (whole, *rest)


class _Cutting:
    """This process' tokens of a module's arguments and outputs."""

    def __init__(self, split: "Split", cuts: list[Cut]) -> None:
        self._split = split
        self._arguments = [(cut.of, cut) for cut in cuts if isinstance(cut.of, str)]
        self._outputs = {cut.of: cut for cut in cuts if isinstance(cut.of, int)}

    def arguments(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Those of a call, cut; what was given by name stays so."""
        given, own = self._split.bind(module, args, kwargs).arguments, [*args]
        for name, cut in self._arguments:
            if given.get(name) is None:
                continue
            given[name] = self._own(given[name], cut)
            if name in kwargs:
                kwargs = {**kwargs, name: given[name]}
            else:
                own[list(given).index(name)] = given[name]
        return tuple(own), kwargs

    def output(self, output: Any) -> Any:
        """What a call returned, cut."""
        if not self._outputs:
            return output
        if isinstance(output, Tensor):
            return self._own(output, self._outputs[0])
        return tuple(
            self._own(part, self._outputs[index]) if index in self._outputs else part
            for index, part in enumerate(output)
        )

    def _own(self, value: Any, cut: Cut) -> Any:
        if isinstance(value, tuple | list):
            inner = replace(cut, item=None)
            return tuple(self._own(part, inner) if cut.item in (None, at) else part for at, part in enumerate(value))
        if not isinstance(value, Tensor) or (
            cut.ndim is not None and (value.ndim != cut.ndim or value.shape[cut.dim] == 1)
        ):
            return value
        exchange, self._split.whole = self._split.sequence, value.shape[cut.dim]
        return padded(value, cut.dim, exchange.size).chunk(exchange.size, dim=cut.dim)[exchange.rank]


class _CutHook(ModelHook):
    """Cuts what the transformer itself gets, behind whoever looks at its calls."""

    def __init__(self, cutting: _Cutting) -> None:
        super().__init__()
        self._cutting = cutting

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Cuts, calls."""
        args, kwargs = self._cutting.arguments(module, args, kwargs)
        return self.fn_ref.original_forward(*args, **kwargs)


class _RefuseHook(ModelHook):
    """Refuses calls that the plan does not hold for."""

    def __init__(self, split: "Split", plan: TokenSplit) -> None:
        super().__init__()
        self._split, self._plan = split, plan

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Looks at the arguments."""
        given = self._split.bind(module, args, kwargs).arguments
        for objection in self._plan.objections({}, arguments=given):
            raise ParallelError(f"{type(module).__name__} cannot be split {objection}")
        return self.fn_ref.original_forward(*args, **kwargs)


class _AttentionHook(ModelHook):
    """Attention of this process' tokens to all."""

    def __init__(self, split: "Split", plan: TokenSplit) -> None:
        super().__init__()
        self._split, self._plan = split, plan

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Calls with a kernel that is shared."""
        whole, exchange = self._split.whole, self._split.sequence
        kernel = SharedKernel(
            exchange, -(-whole // exchange.size), whole, text_first=self._plan.text_first,
            mask_of_own=self._plan.mask_of_own, purpose=KIND,
        )  # fmt: skip
        with kernel:
            output = self.fn_ref.original_forward(*args, **kwargs)
        if kernel.calls == 0:
            raise ParallelError(f"{type(module).__name__} attends by another kernel than torch's; it cannot be shared")
        return output
