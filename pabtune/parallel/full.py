"""Splitting the tokens of a full-attention transformer by a plan: cutting, sharing attention by heads, putting together.

Shapes: N tokens of the whole video, n = N / P of this process (N padded to a multiple of P).
"""

from typing import TYPE_CHECKING, Any

from diffusers.hooks import ModelHook
from torch import Tensor, nn

from pabtune.models.sites import find_sites
from pabtune.parallel.collectives import padded
from pabtune.parallel.heads import SharedKernel, check_kernel
from pabtune.parallel.plans import Cut, Plan
from pabtune.parallel.samples import OUTPUT
from pabtune.records.errors import ParallelError
from pabtune.runtime.interception import PARALLEL_HOOK

if TYPE_CHECKING:
    from pabtune.parallel.split import Split

KIND = "full"
"""Of the sites that exchange; what they send is counted under it."""


def split_tokens(split: "Split", transformer: nn.Module, plan: Plan) -> None:
    """Splits a transformer by a plan.

    Args:
        split: takes note of what is to be undone.
        transformer: of a class with a plan.
        plan: of it.

    Raises:
        ParallelError: attention goes through another kernel than torch's.
    """
    check_kernel()
    cuts: dict[str, list[Cut]] = {}
    for cut in plan.cuts:
        cuts.setdefault(cut.module, []).append(cut)
    for path, own in cuts.items():
        for module in _modules_at(transformer, path):
            cutting = _Cutting(split, own)
            if not path:
                split.hook(module, _CutHook(cutting), f"{PARALLEL_HOOK}_cut")
                continue
            if any(isinstance(cut.of, str) for cut in own):
                split.before(module, cutting.arguments)
            if cutting.outputs:
                split.hook(module, _CutHook(cutting), f"{PARALLEL_HOOK}_cut_{path}")
    if plan.refused:
        split.hook(transformer, _RefuseHook(split, plan), f"{PARALLEL_HOOK}_refuse")
    for site in find_sites(transformer).sites:
        if site.kind == KIND:
            split.hook(transformer.get_submodule(site.path), _AttentionHook(split, plan))
    split.hook(transformer.get_submodule(plan.end), _EndHook(split, plan), f"{PARALLEL_HOOK}_end")


def _modules_at(transformer: nn.Module, path: str) -> list[nn.Module]:
    """The module at a path, or all items of the list that it ends with."""
    if path.endswith(".*"):
        return list(transformer.get_submodule(path.removesuffix(".*")))  # type: ignore[call-overload]
    return [transformer.get_submodule(path)]


class _Cutting:
    """This process' tokens of a module's arguments and outputs."""

    def __init__(self, split: "Split", cuts: list[Cut]) -> None:
        self._split = split
        self._arguments = {cut.of: cut for cut in cuts if isinstance(cut.of, str)}
        self.outputs = {cut.of: cut for cut in cuts if isinstance(cut.of, int)}

    def arguments(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Those of a call, cut; what was given by name stays so."""
        given, own = self._split.bind(module, args, kwargs).arguments, [*args]
        for name, cut in self._arguments.items():
            if given.get(name) is None:
                continue
            part = self._own(given[name], cut)
            if name in kwargs:
                kwargs = {**kwargs, name: part}
            else:
                own[list(given).index(name)] = part
        return tuple(own), kwargs

    def output(self, output: Any) -> Any:
        """What a call returned, cut."""
        if not self.outputs:
            return output
        if isinstance(output, Tensor):
            return self._own(output, self.outputs[0])
        return tuple(
            self._own(part, self.outputs[index]) if index in self.outputs else part for index, part in enumerate(output)
        )

    def _own(self, value: Any, cut: Cut) -> Any:
        if isinstance(value, tuple | list):
            return tuple(self._own(part, cut) for part in value)
        if not isinstance(value, Tensor) or cut.ndim not in (None, value.ndim):
            return value
        exchange, self._split.whole = self._split.sequence, value.shape[cut.dim]
        return padded(value, cut.dim, exchange.size).chunk(exchange.size, dim=cut.dim)[exchange.rank]


class _CutHook(ModelHook):
    """Cuts what a module returns; of the transformer itself, what it gets, behind whoever looks at its calls."""

    def __init__(self, cutting: _Cutting) -> None:
        super().__init__()
        self._cutting = cutting

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Calls, cuts."""
        if not self._cutting.outputs:
            args, kwargs = self._cutting.arguments(module, args, kwargs)
        return self._cutting.output(self.fn_ref.original_forward(*args, **kwargs))


class _RefuseHook(ModelHook):
    """Refuses calls that the plan does not hold for."""

    def __init__(self, split: "Split", plan: Plan) -> None:
        super().__init__()
        self._split, self._plan = split, plan

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Looks at the arguments."""
        given = self._split.bind(module, args, kwargs).arguments
        for name, reason in self._plan.refused:
            if given.get(name):
                raise ParallelError(f"{type(module).__name__} with {name}: {reason}")
        return self.fn_ref.original_forward(*args, **kwargs)


class _AttentionHook(ModelHook):
    """Attention of this process' tokens to all."""

    def __init__(self, split: "Split", plan: Plan) -> None:
        super().__init__()
        self._split, self._plan = split, plan

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Calls with a kernel that is shared."""
        whole, exchange = self._split.whole, self._split.sequence
        kernel = SharedKernel(
            exchange, -(-whole // exchange.size), whole, text_first=self._plan.text_first, purpose=KIND
        )
        with kernel:
            output = self.fn_ref.original_forward(*args, **kwargs)
        if kernel.calls == 0:
            raise ParallelError(f"{type(module).__name__} attends by another kernel than torch's; it cannot be shared")
        return output


class _EndHook(ModelHook):
    """All tokens again."""

    def __init__(self, split: "Split", plan: Plan) -> None:
        super().__init__()
        self._split, self._plan = split, plan

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Calls with this process' tokens, returns those of all."""
        own = self.fn_ref.original_forward(*args, **kwargs)
        return self._split.sequence.gather(own, self._plan.dim, OUTPUT).narrow(self._plan.dim, 0, self._split.whole)
