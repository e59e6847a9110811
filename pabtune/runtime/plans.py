"""What a session of broadcasting plans, holds and logs: the plan of a loop, the state of a branch, the record of a call."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pabtune.planning.masks import ComputeMask
from pabtune.runtime.payloads import Kept, weighted_sum
from pabtune.runtime.stores import OutputStore


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What every site does in every step of a denoising loop.

    Attributes:
        mask: the compute mask.
        computes: per step, one flag per site: whether it computes.
        held: per step, for each site: how many of its outputs are held after the step.
    """

    mask: ComputeMask
    computes: tuple[tuple[bool, ...], ...]
    held: tuple[tuple[int, ...], ...]

    @property
    def patterns(self) -> int:
        """Number of distinct combinations of site modes: the graphs that a compiled model needs per shape."""
        keeps = (tuple(count > 0 for count in column) for column in self.held)
        return len(set(zip(self.computes, keeps, strict=True)))

    def served(
        self, index: int, history: tuple[Kept, ...], step: int, store: OutputStore
    ) -> tuple[tuple[Any, ...], bool]:
        """What a site serves at a step, one for each of its calls in a forward, and whether it is out of the store already.

        Outputs are combined here and not in the hooks, so that a compiled graph does not depend on the weights.

        Args:
            index: of the site.
            history: its stored outputs.
            step: the step that is served.
            store: where they are.
        """
        if self.mask.payload(index).kind == "hold":
            return history[-1].outputs, False
        weights = self.mask.weights(index, [kept.step for kept in history], step)
        used = [[store.unpack(each) for each in kept.outputs] for kept in history[-len(weights) :]]
        return tuple(weighted_sum(outputs, weights) for outputs in zip(*used, strict=True)), True

    def unpacked(self, index: int, history: tuple[Kept, ...], step: int, store: OutputStore) -> tuple[Any, ...]:
        """What a site serves at a step, out of the store; the pipeline may change it (see `served`)."""
        outputs, is_ready = self.served(index, history, step, store)
        return outputs if is_ready else tuple(store.unpack(each) for each in outputs)

    @classmethod
    def of(cls, mask: ComputeMask) -> "Plan":
        """The plan of a compute mask."""
        computes = tuple(tuple(bool(flag) for flag in column) for column in mask.compute.T)
        held = tuple(zip(*(each.held for each in mask.lifetimes()), strict=True))
        return cls(mask=mask, computes=computes, held=held)


@dataclass(slots=True)
class Branch:
    """State of one guidance branch of one transformer.

    Attributes:
        step: step of its last call; None before the first, or after its outputs were freed.
        shape: shape of the first tensor of that call.
        stored: stored outputs by site index, in the order of their steps.
        rebuild: makes the transformer's output of its tensors.
        follows_conditional: of an unconditional branch, whether the conditional one comes before it in a step.
        computed: calls of each site that computed.
        broadcast: calls of each site that were served by a broadcast.
    """

    step: int | None = None
    shape: tuple[int, ...] = ()
    stored: dict[int, tuple[Kept, ...]] = field(default_factory=dict)
    rebuild: Callable[[Any], Any] = tuple
    follows_conditional: bool = False
    computed: Counter[int] = field(default_factory=Counter)
    broadcast: Counter[int] = field(default_factory=Counter)

    def keep(self, index: int, outputs: tuple[Any, ...], count: int) -> None:
        """Adds outputs of a site, computed in the current step, and keeps the last `count`."""
        self.stored[index] = (*self.stored.get(index, ()), Kept(self.step or 0, outputs))
        self.trim(index, count)

    def trim(self, index: int, count: int) -> None:
        """Frees all but the last `count` outputs of a site."""
        history = self.stored.pop(index, ())
        if count and history:
            self.stored[index] = history[-count:]

    def come_after(self, index: int, *, is_second: bool) -> None:
        """Notes whether the conditional branch was called first in this step; a guidance difference of another kind is freed.

        Args:
            index: site of the guidance difference.
            is_second: whether it was.
        """
        if is_second != self.follows_conditional:
            self.follows_conditional = is_second
            self.trim(index, 0)

    def forget(self) -> None:
        """Frees the stored outputs; the next call computes everything."""
        self.stored.clear()
        self.step = None


def free_left_behind(branches: Mapping[tuple[str, str], Branch], transformer: str, step: int) -> None:
    """Frees outputs of a transformer whose denoising phase is over (Wan 2.2), and of branches no longer called.

    Args:
        branches: by transformer and branch name.
        transformer: that is about to be called.
        step: of that call.
    """
    steps = {key: branch.step for key, branch in branches.items() if branch.step is not None}
    takes_over = not any(name == transformer and last >= step - 1 for (name, _), last in steps.items())
    for (name, branch_name), last in steps.items():
        if last < step - 1 or (takes_over and name != transformer and last < step):
            branches[name, branch_name].forget()


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRecord:
    """Log entry of one transformer call.

    Attributes:
        transformer: name of the transformer in the pipeline.
        step: denoising step.
        branch: guidance branch.
        computed: indices of the sites that computed; None if the call did not happen: all of it was broadcast, or put
            together from the conditional one's output.
        broadcast: indices of the sites that were served by a broadcast, also of the one that served the whole call.
        is_halved: whether the guidance difference was broadcast inside the call, and half of its samples computed.
    """

    transformer: str
    step: int
    branch: str
    computed: frozenset[int] | None
    broadcast: frozenset[int] = frozenset()
    is_halved: bool = False
