"""The hooks on the sites of a model under a policy: compute, keep or broadcast, as they are told before each call.

A hook only looks at its own attributes, which a session sets before the transformer is called and takes back after it. For a
compiled model its `mode` is a constant of the graph; no layer's index is in it, so layers share what is compiled.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pabtune.records.errors import ModelError
from pabtune.records.sites import Site
from pabtune.runtime.attachment import DirectHook
from pabtune.runtime.ledger import Meter
from pabtune.runtime.listeners import tensors_of
from pabtune.runtime.stores import OutputStore

COMPUTE, KEEP, BROADCAST = range(3)
"""What a site does in a call: compute; compute and keep the output; return what was kept."""


class SiteHook(DirectHook):
    """Is on a site: computes its output, or returns the one that was kept.

    Args:
        store: how outputs are kept.

    Attributes:
        mode: what the site does in this call.
        outputs: what is kept, one for each call of the site in a forward.
        calls: of the site so far in this forward.
        meter: counts the bytes of outputs in this call; None = they are known.
        nbytes: of the outputs in this call, if they are counted.
    """

    def __init__(self, store: OutputStore) -> None:
        super().__init__()
        self.store = store
        self.mode = COMPUTE
        self.outputs: tuple[Any, ...] = ()
        self.calls = 0
        self.meter: Meter | None = None
        self.nbytes = 0

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Computes or returns what was kept; calls of one forward are told apart by their order."""
        call = self.calls
        self.calls = call + 1
        if call == 0:
            self.store.record(self)
        if self.mode == BROADCAST:
            return self.broadcast(self.store.fetch(self, call), args, kwargs)
        output = self.compute(module, args, kwargs)
        if self.meter is not None:
            self.nbytes += self.meter.read(tensors_of(output), is_kept=self.mode == KEEP)
        if self.mode == KEEP:
            self.keep(output, args, kwargs)
        return output

    def broadcast(self, kept: Any, args: Any, kwargs: Any) -> Any:
        """What a call returns that does not compute."""
        return kept

    def keep(self, output: Any, args: Any, kwargs: Any) -> None:
        """Keeps the output of a call that computed."""
        self.outputs = (*self.outputs, self.store.pack(output))

    def finish(self) -> None:
        """The forward is over, and what was kept will be needed."""

    def clear(self) -> None:
        """Computes from now on, and holds nothing."""
        self.mode, self.outputs, self.calls, self.meter, self.nbytes = COMPUTE, (), 0, None, 0


class BlockHook(SiteHook):
    """Is on a block: broadcasts its residual, output less input, and adds it to the inputs of later steps."""

    def broadcast(self, kept: Any, args: Any, kwargs: Any) -> Any:
        """The inputs with the residual added (see `SiteHook`)."""
        return with_inputs(kept, args, kwargs, torch.add)

    def keep(self, output: Any, args: Any, kwargs: Any) -> None:
        """Keeps the residual (see `SiteHook`)."""
        self.outputs = (*self.outputs, self.store.pack(with_inputs(output, args, kwargs, torch.sub)))


class StackHook(BlockHook):
    """Is on the first block of a stack: broadcasts the sum of the residuals of all its blocks."""

    structure: Any = None
    """Of the output of the first block."""

    def keep(self, output: Any, args: Any, kwargs: Any) -> None:
        """Keeps the residual; further blocks add theirs, and only then is it packed (see `SiteHook`)."""
        self.outputs = (*self.outputs, with_inputs(output, args, kwargs, torch.sub))
        self.structure = structure_of(output)

    def finish(self) -> None:
        """Packs the sum (see `SiteHook`)."""
        if self.mode == KEEP:
            self.outputs = tuple(map(self.store.pack, self.outputs))


class StackMemberHook(DirectHook):
    """Is on a further block of a stack: passes its inputs on when the stack broadcasts, else adds to what it keeps.

    Args:
        stack: the hook of the stack's first block, which is called just before.
    """

    def __init__(self, stack: StackHook) -> None:
        super().__init__()
        self.stack = stack

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """The first block of the stack has added everything, or this one computes."""
        stack = self.stack
        if stack.mode == BROADCAST:
            return with_inputs(stack.structure, args, kwargs, lambda _part, value: value)
        output = self.compute(module, args, kwargs)
        if stack.mode == KEEP:
            *before, kept = stack.outputs
            stack.outputs = (*before, add_parts(kept, with_inputs(output, args, kwargs, torch.sub)))
        return output


class FeederHook(DirectHook):
    """Is on a feeder; skips it when its site broadcasts and so will not look at what the feeder returns.

    Args:
        site: the hook of the site that the feeder serves.
    """

    def __init__(self, site: SiteHook) -> None:
        super().__init__()
        self.site = site

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """One token stands in for all: what the block still does to it on the way to the site costs nothing."""
        if self.site.mode != BROADCAST:
            return self.compute(module, args, kwargs)
        tensor = args[0] if args else next(iter(kwargs.values()))
        return tensor[:, :1] if tensor.ndim > 2 else tensor


HOOKS: dict[str, type[SiteHook]] = {"block": BlockHook, "stack": StackHook}
"""By kind; all other kinds of sites broadcast their output."""


def hook_for(site: Site, store: OutputStore) -> SiteHook:
    """The hook for a site.

    Args:
        site: any.
        store: of its transformer.
    """
    return HOOKS.get(site.kind, SiteHook)(store)


PART = True
"""Stands for a tensor where only the structure of an output matters."""


def with_inputs(
    parts: Any, args: tuple[Any, ...], kwargs: dict[str, Any], combine: Callable[[Tensor, Tensor], Tensor]
) -> Any:
    """What a block returned, each part combined with the input that it belongs to: `combine(part, input)`.

    The inputs are the first tensors among the arguments: a block takes first what it returns.

    Raises:
        ModelError: what it returns is not of their shapes.
    """
    inputs = iter([value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)])

    def combine_part(part: Any) -> Any:
        if isinstance(part, tuple | list):
            return type(part)(combine_part(inner) for inner in part)
        if part is None:
            return None
        value = next(inputs, None)
        if value is None or (part is not PART and value.shape != part.shape):
            raise ModelError("a block does not return what it takes first; its residual cannot be broadcast")
        return combine(part, value)

    return combine_part(parts)


def structure_of(output: Any) -> Any:
    """An output with `PART` in the place of each tensor."""
    if isinstance(output, tuple | list):
        return tuple(map(structure_of, output))
    return None if output is None else PART


def add_parts(first: Any, second: Any) -> Any:
    """The sum of two outputs of one structure, part by part."""
    if isinstance(first, Tensor):
        return first + second
    return None if first is None else type(first)(map(add_parts, first, second))
