"""The hooks of a policy that decides in a run: they show what its decider looks at, and serve or compute as it answers."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from pabtune.records.errors import ModelError
from pabtune.runtime.attachment import DirectHook
from pabtune.runtime.listeners import tensors_of
from pabtune.runtime.payloads import copied
from pabtune.runtime.site_hooks import BROADCAST, StackHook, copied_tensors
from pabtune.runtime.stores import OutputStore


class Gate:
    """What the hooks of one transformer share during a call.

    Attributes:
        stacks: hooks of the stacks, in the order in which they are reached.
        ask: told what the decider looks at, sets the modes of the stacks; None = it was asked, or there is no call.
        entered: first input of the first block, as long as the residual of the front blocks is not known.
        watched: output of the watched site in this call.
    """

    def __init__(self) -> None:
        self.stacks: list[DecidedStackHook] = []
        self.clear()

    def clear(self) -> None:
        """Ends a call: everything computes, and nothing is held."""
        self.ask: Callable[[Tensor], None] | None = None
        self.entered: Tensor | None = None
        self.watched: Tensor | None = None
        for stack in self.stacks:
            stack.clear()

    def settle(self, seen: Tensor) -> None:
        """Asks the decider of this call."""
        ask, self.ask, self.entered = self.ask, None, None
        assert ask is not None
        ask(seen)

    @property
    def serves(self) -> bool:
        """Whether the stacks are served in this call."""
        return self.stacks[0].mode == BROADCAST


class Served(Exception):  # noqa: N818, no error: leaves the first block, which is then served
    """The first block was left because it is served."""


class DecidedStackHook(StackHook):
    """Hook on the first block of a stack, whose mode may be decided while it runs.

    Args:
        store: how residuals are kept.
        gate: of its transformer.
    """

    def __init__(self, store: OutputStore, gate: Gate) -> None:
        super().__init__(store)
        self._gate = gate
        gate.stacks.append(self)

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Computes or serves; a first block whose attention was found to be served is left, and serves.

        Raises:
            ModelError: the stack is reached before what is looked at.
        """
        if self._gate.ask is None:
            return super().new_forward(module, *args, **kwargs)
        if self._gate.stacks[0] is not self or self._gate.entered is not None:
            raise ModelError(
                "the blocks of this transformer run in another order than its card says; nothing can be decided"
            )
        before, named_before = copied_tensors(args, kwargs)
        try:
            return super().new_forward(module, *args, **kwargs)
        except Served:
            self.calls = 0
            return super().new_forward(module, *before, **named_before)


class FrontHook(DirectHook):
    """Hook on a block that always computes: the last one shows the residual of all of them.

    Args:
        gate: of its transformer.
        is_first: whether it is the first.
        is_last: whether it is the last.
    """

    def __init__(self, gate: Gate, *, is_first: bool, is_last: bool) -> None:
        super().__init__()
        self._gate, self._is_first, self._is_last = gate, is_first, is_last

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Computes."""
        gate = self._gate
        if gate.ask is None:
            return self.compute(module, args, kwargs)
        if self._is_first:
            gate.entered = copied(first_tensor(args, kwargs))
        output = self.compute(module, args, kwargs)
        if self._is_last and gate.entered is not None:
            left = tensors_of(output)[0]
            if left.shape != gate.entered.shape:
                raise ModelError(
                    f"what the first blocks add cannot be told: they take {tuple(gate.entered.shape)} and return "
                    f"{tuple(left.shape)}; a policy that decides by it does not fit this model"
                )
            gate.settle(left - gate.entered)
        return output


class AttentionHook(DirectHook):
    """Hook on the first attention: its input is looked at before it computes.

    Args:
        gate: of its transformer.
    """

    def __init__(self, gate: Gate) -> None:
        super().__init__()
        self._gate = gate

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Computes, or leaves the block if the stacks are served."""
        if self._gate.ask is not None:
            self._gate.settle(copied(first_tensor(args, kwargs)))
            if self._gate.serves:
                raise Served
        return self.compute(module, args, kwargs)


class WatchHook(DirectHook):
    """Hook on a site whose output the decider is told.

    Args:
        gate: of its transformer.
    """

    def __init__(self, gate: Gate) -> None:
        super().__init__()
        self._gate = gate

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Computes, and notes the first tensor of the output."""
        output = self.compute(module, args, kwargs)
        self._gate.watched = copied(tensors_of(output)[0])
        return output


def first_tensor(args: Any, kwargs: Any) -> Tensor:
    """The first tensor among the arguments of a module."""
    return next(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
