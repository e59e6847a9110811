"""The hooks on the sites of a model under a policy, which compute, keep or broadcast by their mode.

A hook reads only its own attributes, which a session sets before a transformer call and resets after it. In a compiled model
its `mode` is a constant of the graph; the graph contains no layer index, so all layers share it.
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
from pabtune.runtime.payloads import copied
from pabtune.runtime.stores import OutputStore

COMPUTE, KEEP, BROADCAST = range(3)
"""Modes of a site in a call: compute; compute and keep the output; return the kept output."""


class SiteHook(DirectHook):
    """Hook on a site: computes its output, or returns the kept one.

    Args:
        store: how outputs are stored.

    Attributes:
        mode: mode of the site in this transformer call.
        outputs: stored outputs, one for each call of the site in a forward.
        is_ready: whether `outputs` are to be served as they are, not fetched from the store.
        calls: calls of the site so far in this forward.
        meter: counts the bytes of outputs in this forward; None if they need not be counted.
        nbytes: bytes of the outputs in this forward, if they are counted.
    """

    def __init__(self, store: OutputStore) -> None:
        super().__init__()
        self.store = store
        self.mode = COMPUTE
        self.outputs: tuple[Any, ...] = ()
        self.is_ready = False
        self.calls = 0
        self.meter: Meter | None = None
        self.nbytes = 0

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Computes or broadcasts; several calls of a site in one forward are identified by their order."""
        call = self.calls
        self.calls = call + 1
        if call == 0:
            self.store.record(self)
        if self.mode == BROADCAST:
            kept = self.outputs[call] if self.is_ready else self.store.fetch(self, call)
            return self.broadcast(kept, args, kwargs)
        before = self.inputs_before(args, kwargs) if self.mode == KEEP else ()
        output = self.compute(module, args, kwargs)
        if self.meter is not None:
            self.nbytes += self.meter.read(tensors_of(output), is_kept=self.mode == KEEP)
        if self.mode == KEEP:
            self.keep(output, *before)
        return output

    def inputs_before(self, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """Arguments of a call, as `keep` needs them after it."""
        return args, kwargs

    def broadcast(self, kept: Any, args: Any, kwargs: Any) -> Any:
        """Output of a call that does not compute, from the stored one."""
        return kept

    def keep(self, output: Any, args: Any, kwargs: Any) -> None:
        """Keeps the output of a call that computed."""
        self.outputs = (*self.outputs, self.store.pack(output))

    def finish(self) -> None:
        """Called after a forward whose outputs the next step needs."""

    def clear(self) -> None:
        """Resets the hook: it computes and holds nothing."""
        self.mode, self.outputs, self.is_ready, self.calls, self.meter, self.nbytes = COMPUTE, (), False, 0, None, 0


class BlockHook(SiteHook):
    """Hook on a block: broadcasts its residual (output minus input), which is added to the inputs of later steps."""

    def inputs_before(self, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """Copies of the arguments, which the block may change in place (see `SiteHook`)."""
        return copied_tensors(args, kwargs)

    def broadcast(self, kept: Any, args: Any, kwargs: Any) -> Any:
        """The inputs with the residual added (see `SiteHook`)."""
        return with_inputs(kept, args, kwargs, torch.add)

    def keep(self, output: Any, args: Any, kwargs: Any) -> None:
        """Keeps the residual (see `SiteHook`)."""
        self.outputs = (*self.outputs, self.store.pack(with_inputs(output, args, kwargs, torch.sub)))


class StackHook(BlockHook):
    """Hook on the first block of a stack: broadcasts the sum of the residuals of all its blocks."""

    structure: Any = None
    """Structure of the output of the first block, see `structure_of`."""

    def keep(self, output: Any, args: Any, kwargs: Any) -> None:
        """Keeps the residual unpacked, because the other blocks add theirs (see `SiteHook`)."""
        self.outputs = (*self.outputs, with_inputs(output, args, kwargs, torch.sub))
        self.structure = structure_of(output)

    def finish(self) -> None:
        """Packs the sum of residuals (see `SiteHook`)."""
        if self.mode == KEEP:
            self.outputs = tuple(map(self.store.pack, self.outputs))


class StackMemberHook(DirectHook):
    """Hook on a further block of a stack: returns its inputs if the stack broadcasts, else adds its residual to the sum.

    Args:
        stack: hook of the first block of the stack, which is called earlier in the same forward.
    """

    def __init__(self, stack: StackHook) -> None:
        super().__init__()
        self.stack = stack

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Returns the inputs, to which the first block has added the sum of residuals, or computes."""
        stack = self.stack
        if stack.mode == BROADCAST:
            return with_inputs(stack.structure, args, kwargs, lambda _part, value: copied(value))
        if stack.mode != KEEP:
            return self.compute(module, args, kwargs)
        before = copied_tensors(args, kwargs)
        output = self.compute(module, args, kwargs)
        *earlier, residual = stack.outputs
        stack.outputs = (*earlier, add_parts(residual, with_inputs(output, *before, torch.sub)))
        return output


class FeederHook(DirectHook):
    """Hook on a feeder: skips it if its site broadcasts and so does not use the feeder's output.

    Args:
        site: hook of the site that the feeder serves.
    """

    def __init__(self, site: SiteHook) -> None:
        super().__init__()
        self.site = site

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Returns a single token if the site broadcasts, so that the block's arithmetic before the site costs nothing."""
        if self.site.mode != BROADCAST:
            return self.compute(module, args, kwargs)
        tensor = args[0] if args else next(iter(kwargs.values()))
        # A copy, because the block may scale and shift it in place.
        return (tensor[:, :1] if tensor.ndim > 2 else tensor).clone()


HOOKS: dict[str, type[SiteHook]] = {"block": BlockHook, "stack": StackHook}
"""Hook classes by kind; sites of all other kinds broadcast their output."""


def hook_for(site: Site, store: OutputStore) -> SiteHook:
    """The hook for a site, by its kind.

    Args:
        site: the site.
        store: output store of its transformer.
    """
    return HOOKS.get(site.kind, SiteHook)(store)


PART = True
"""Placeholder for a tensor if only the structure of an output matters."""


def with_inputs(
    parts: Any, args: tuple[Any, ...], kwargs: dict[str, Any], combine: Callable[[Tensor, Tensor], Tensor]
) -> Any:
    """The output of a block with each part combined with its input: `combine(part, input)`.

    The inputs are the first tensors among the arguments, because blocks take what they return as their first arguments.

    Args:
        parts: output of the block, or its structure.
        args: positional arguments of the block.
        kwargs: keyword arguments of the block.
        combine: function of a part and its input.

    Raises:
        ModelError: the shapes of the outputs are not those of the first arguments.
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


def copied_tensors(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments with a copy of each tensor among them, which no later change in place reaches."""

    def copy(value: Any) -> Any:
        return copied(value) if isinstance(value, Tensor) else value

    return tuple(map(copy, args)), {name: copy(value) for name, value in kwargs.items()}


def structure_of(output: Any) -> Any:
    """The structure of an output: `PART` in place of each tensor."""
    if isinstance(output, tuple | list):
        return type(output)(map(structure_of, output))
    return None if output is None else PART


def add_parts(first: Any, second: Any) -> Any:
    """Sum of two outputs of the same structure, part by part."""
    if isinstance(first, Tensor):
        return first + second
    return None if first is None else type(first)(map(add_parts, first, second))
