"""What sits on the sites of a model under a policy, and what is known of a run: its plan and its branches."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from pabtune.planning.masks import ComputeMask
from pabtune.records.errors import ModelError
from pabtune.records.policies import Store
from pabtune.records.sites import Kind
from pabtune.runtime.hosting import Ferry
from pabtune.runtime.interception import DirectHook, tensors_of
from pabtune.runtime.storing import kept_bytes, pack, unpack

COMPUTE, KEEP, BROADCAST = range(3)
"""What a site does in a call: compute; compute and keep the output; return what was kept."""


class BroadcastHook(DirectHook):
    """Sits on a site. It only looks at its own attributes, which are set before the transformer is called.

    For a compiled model its `mode` is a constant of the graph; no layer's index is in it, so layers share what is compiled.
    """

    def __init__(self, store: Store, ferry: Ferry | None = None, unit: Kind | None = None) -> None:
        super().__init__()
        self.unit = unit
        self.structure: Any = None
        self.store = store
        self.ferry = ferry
        self.mode = COMPUTE
        self.is_weighed = False
        self.weight = 0
        self.outputs: tuple[Any, ...] = ()
        self.calls = 0

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Computes or returns what was kept; calls of one forward are told apart by their order."""
        call = self.calls
        self.calls = call + 1
        if self.ferry is not None and call == 0:
            self.ferry.note(self)
        if self.mode == BROADCAST:
            kept = self.unpack(call)
            return kept if self.unit is None else with_inputs(kept, args, kwargs, torch.add)
        output = self.compute(module, args, kwargs)
        if self.is_weighed:
            self.weight += self.weigh(output)
        if self.mode == KEEP:
            kept = output if self.unit is None else with_inputs(output, args, kwargs, torch.sub)
            # Further blocks of a stack add to what it keeps.
            self.outputs = (*self.outputs, kept if self.unit == "stack" else self.pack(kept))
            self.structure = None if self.unit != "stack" else _marks(output)
        return output

    def finish(self) -> None:
        """The forward is over: packs what a stack kept."""
        if self.unit == "stack" and self.mode == KEEP:
            self.outputs = tuple(map(self.pack, self.outputs))

    def pack(self, output: Any) -> Any:
        """What is kept of an output."""
        if self.ferry is not None:
            return self.ferry.save(output)
        return output if self.store == "exact" else pack(output)

    def weigh(self, output: Any) -> int:
        """Bytes that an output will take."""
        return kept_bytes(tensors_of(output), self.store)

    def unpack(self, call: int) -> Any:
        """What was kept of a call, as the site returned it."""
        if self.ferry is not None:
            return self.ferry.take(self, call)
        kept = self.outputs[call]
        return kept if self.store == "exact" else unpack(kept)


def with_inputs(
    parts: Any, args: tuple[Any, ...], kwargs: dict[str, Any], combine: Callable[[Tensor, Tensor], Tensor]
) -> Any:
    """What a block returned, each part combined with the input that it belongs to: `combine(part, input)`.

    The inputs are the first tensors among the arguments: a block takes first what it returns.

    Raises:
        ModelError: what it returns is not of their shapes.
    """
    inputs = iter([value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)])

    def each(part: Any) -> Any:
        if isinstance(part, tuple | list):
            return type(part)(each(inner) for inner in part)
        if part is None:
            return None
        own = next(inputs, None)
        if own is None or (part is not MARK and own.shape != part.shape):
            raise ModelError("a block does not return what it takes first; its residual cannot be broadcast")
        return combine(part, own)

    return each(parts)


MARK = True
"""Stands for a tensor where only the structure of an output matters."""


def _marks(output: Any) -> Any:
    """The structure of an output."""
    if isinstance(output, tuple | list):
        return tuple(map(_marks, output))
    return None if output is None else MARK


class PassHook(DirectHook):
    """Sits on a further block of a stack: passes its inputs on when the stack broadcasts, else adds to what it keeps."""

    def __init__(self, stack: BroadcastHook) -> None:
        super().__init__()
        self.stack = stack

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """The first block of the stack has been called just before."""
        stack = self.stack
        if stack.mode == BROADCAST:
            return with_inputs(stack.structure, args, kwargs, _second)
        output = self.compute(module, args, kwargs)
        if stack.mode == KEEP:
            *before, kept = stack.outputs
            own = with_inputs(output, args, kwargs, torch.sub)
            stack.outputs = (*before, _sum(kept, own))
        return output


def _second(_part: Any, own: Tensor) -> Tensor:
    return own


def _sum(first: Any, second: Any) -> Any:
    """Of two outputs of one structure, part by part."""
    if isinstance(first, Tensor):
        return first + second
    return None if first is None else type(first)(map(_sum, first, second))


class SkipHook(DirectHook):
    """Sits on a feeder; skips it when its site will not look at what it returns."""

    def __init__(self, site: BroadcastHook) -> None:
        super().__init__()
        self.site = site

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """One token stands in for all: what the block still does to it on the way to the site costs nothing."""
        if self.site.mode != BROADCAST:
            return self.compute(module, args, kwargs)
        tensor = args[0] if args else next(iter(kwargs.values()))
        return tensor[:, :1] if tensor.ndim > 2 else tensor


@dataclass(slots=True)
class Branch:
    """What the engine knows of one branch of one transformer while a run goes on; what is kept, per site and call."""

    step: int | None = None
    shape: tuple[int, ...] = ()
    stored: dict[int, tuple[Any, ...]] = field(default_factory=dict)
    weights: dict[int, int] = field(default_factory=dict)
    computed: Counter[int] = field(default_factory=Counter)
    broadcast: Counter[int] = field(default_factory=Counter)

    def note_weight(self, index: int, weight: int) -> None:
        """Takes note of what a site's output weighs; where videos change their length, the longest counts."""
        self.weights[index] = max(weight, self.weights.get(index, 0))

    def forget(self) -> None:
        """Frees what is held; the next call computes everything."""
        self.stored.clear()
        self.step = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Per step, one flag per site: whether it computes, and whether its output is needed by the next step."""

    mask: ComputeMask
    computes: tuple[tuple[bool, ...], ...]
    keeps: tuple[tuple[bool, ...], ...]

    @property
    def patterns(self) -> int:
        """Distinct things that the sites together do in a step: so many graphs a compiled model needs per shape."""
        return len(set(zip(self.computes, self.keeps, strict=True)))

    @classmethod
    def of(cls, mask: ComputeMask) -> "Plan":
        """The plan of a compute mask."""
        columns = [tuple(bool(flag) for flag in column) for column in mask.compute.T]
        needed = [tuple(not flag for flag in column) for column in columns[1:]]
        return cls(mask=mask, computes=tuple(columns), keeps=(*needed, (False,) * len(mask.sites)))
