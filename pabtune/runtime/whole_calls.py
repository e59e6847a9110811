"""What is broadcast of whole calls of a transformer: their outputs, and the difference between guidance branches.

Where a whole call is broadcast, it does not happen. Where the guidance difference is, half of a call with both branches
computes, and an unconditional call does not happen.
"""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from pabtune.models.guidance import Role
from pabtune.runtime.guidance import GuidanceBranches, difference_between, difference_of, put_together
from pabtune.runtime.interception import awaits_branch
from pabtune.runtime.listeners import Halved, Substitute
from pabtune.runtime.locator import CallPosition
from pabtune.runtime.payloads import copied, taken_apart
from pabtune.runtime.plans import Branch, Plan
from pabtune.runtime.stores import OutputStore
from pabtune.runtime.targets import Target


class WholeCalls:
    """Whole calls and guidance differences of one run.

    Args:
        policy: name of the policy, for messages.
        target: the model, with the policy's sites.
        stores: store of each transformer.
        earlier: those of the same run before its content class was told; None = the run begins.

    Attributes:
        sites: index of the site of a transformer's whole calls, where the policy has one.
        broadcast: index of what serves the latest call or half of it: the whole call or the guidance difference, or nothing.
    """

    def __init__(
        self, policy: str, target: Target, stores: Mapping[str, OutputStore], earlier: "WholeCalls | None" = None
    ) -> None:
        sites = list(enumerate(target.sites))
        self.sites = {site.transformer: index for index, site in sites if site.kind == "transformer"}
        self._differences = {site.transformer: index for index, site in sites if site.kind == "guidance"}
        self._guidance = GuidanceBranches(policy, target, self._differences)
        self._transformers = target.transformers
        self._put_off: list[Callable[[], None]] = []
        if earlier is not None:
            self._guidance.go_on_from(earlier._guidance)
        self._stores = stores
        self._role: Role = "other"
        self._halved: Halved | None = None
        self.broadcast: frozenset[int] = frozenset()

    def begin(self, plan: Plan, position: CallPosition, branch: Branch, sample: Tensor) -> Substitute | Halved | None:
        """What stands in the place of a call, or is left of it; None if all of it has to happen.

        Args:
            plan: of the loop.
            position: of the call.
            branch: its branch, as of this step.
            sample: first tensor of the call.

        Raises:
            PolicyError: the call has no guidance branches, or nothing tells them.
        """
        self._role, self._halved, self.broadcast = self._guidance.role(position, sample), None, frozenset()
        instead = self._broadcast_call(plan, position, branch) or self._broadcast_guidance(
            plan, position, branch, sample
        )
        if isinstance(instead, Halved):
            self._halved = instead
        return instead

    def end(self, plan: Plan, position: CallPosition, branch: Branch, output: Any) -> dict[int, tuple[Any, ...]]:
        """Keeps what later steps need of the output of a call that happened, completed if it was halved.

        Returns:
            Outputs of the sites that computed, by index.
        """
        sites: dict[int, tuple[Any, ...]] = {}
        whole_call, difference = self.sites.get(position.transformer), self._differences.get(position.transformer)
        if whole_call is None and difference is None:
            return {}
        branch.rebuild, parts = taken_apart(output)
        is_unfilled = awaits_branch(self._transformers[position.transformer])
        while self._put_off and not is_unfilled:
            self._put_off.pop()()
        if whole_call is not None and is_unfilled:
            # Filled before the next call returns, and so before the pipeline reads or changes it: copied then.
            self._put_off.append(lambda: self._keep(plan, position, branch, whole_call, copied(parts)))
            branch.computed[whole_call] += 1
            return {whole_call: parts}
        if whole_call is not None:
            sites[whole_call] = copied(parts)
        if difference is not None and self._halved is not None:
            branch.broadcast[difference] += 1
            branch.trim(difference, plan.held[position.step][difference])
        elif difference is not None and self._role in ("unconditional", "both"):
            sites[difference] = self._difference(position, branch, parts)
        elif self._role == "conditional":
            self._guidance.wait(position, branch.shape, parts)
        self._halved = None
        for index, outputs in sites.items():
            branch.computed[index] += 1
            self._keep(plan, position, branch, index, outputs)
        return sites

    def finish(self, *, is_complete: bool) -> None:
        """Ends the run (see `GuidanceBranches.finish`)."""
        self._guidance.finish(is_complete=is_complete)

    def forget(self) -> None:
        """Frees what waits for a call."""
        self._halved = None
        self._put_off.clear()
        self._guidance.forget()

    def is_one_branch(self, plan: Plan, transformer: str, step: int) -> bool:
        """Whether the guidance difference is broadcast in a step: what computes inside of its calls then is not kept."""
        index = self._differences.get(transformer)
        return index is not None and not plan.computes[step][index]

    def _broadcast_call(self, plan: Plan, position: CallPosition, branch: Branch) -> Substitute | None:
        """The output of a whole call that is broadcast; None if the call has to happen."""
        index, step = self.sites.get(position.transformer), position.step
        if index is None:
            return None
        if plan.computes[step][index]:
            branch.trim(index, max(plan.held[step][index] - 1, 0))
            return None
        history = branch.stored.get(index, ())
        if not history:
            return None
        self._count_broadcast(branch, index)
        (parts,) = plan.unpacked(index, history, step, self._stores[position.transformer])
        return self._in_place(plan, position, branch, parts)

    def _broadcast_guidance(
        self, plan: Plan, position: CallPosition, branch: Branch, sample: Tensor
    ) -> Substitute | Halved | None:
        """What is left of a call in which the guidance difference is broadcast; None if all of it computes."""
        index, step = self._differences.get(position.transformer), position.step
        if index is None or self._role in ("conditional", "other"):
            return None
        conditional = None
        if self._role == "unconditional":
            conditional = self._guidance.conditional(position, branch.shape)
            branch.come_after(index, is_second=conditional is not None)
        history = branch.stored.get(index, ())
        if plan.computes[step][index] or not history:
            branch.trim(index, max(plan.held[step][index] - 1, 0))
            return None
        (parts,) = plan.unpacked(index, history, step, self._stores[position.transformer])
        if self._role == "both":
            self.broadcast = frozenset({index})  # counted when the call has happened
            return Halved(self._guidance.half(position), len(sample), parts)
        self._count_broadcast(branch, index)
        self._guidance.release(position)
        return self._in_place(
            plan, position, branch, parts if conditional is None else put_together(parts, conditional)
        )

    def _count_broadcast(self, branch: Branch, index: int) -> None:
        """Notes a call that a site serves."""
        branch.broadcast[index] += 1
        self.broadcast = frozenset({index})

    def _in_place(self, plan: Plan, position: CallPosition, branch: Branch, parts: tuple[Any, ...]) -> Substitute:
        """Puts parts of an output in the place of a call that does not happen; frees what is not needed later."""
        whole_call, step = self.sites.get(position.transformer), position.step
        if whole_call is not None and plan.computes[step][whole_call]:
            self._keep(plan, position, branch, whole_call, parts)
        for index in tuple(branch.stored):
            branch.trim(index, plan.held[step][index])
        if self._role == "conditional":
            self._guidance.wait(position, branch.shape, parts)
        return Substitute(branch.rebuild(parts))

    def _difference(self, position: CallPosition, branch: Branch, parts: tuple[Any, ...]) -> tuple[Any, ...]:
        """What is kept of a call with an unconditional branch: the difference, or that branch itself if it came first."""
        if self._role == "both":
            return difference_of(parts, self._guidance.half(position))
        conditional = self._guidance.conditional(position, branch.shape)
        self._guidance.release(position)
        return copied(parts) if conditional is None else difference_between(parts, conditional)

    def _keep(self, plan: Plan, position: CallPosition, branch: Branch, index: int, outputs: tuple[Any, ...]) -> None:
        """Keeps an output of a site if a later step needs it."""
        held = plan.held[position.step][index]
        if held:
            branch.keep(index, (self._stores[position.transformer].pack(outputs),), held)
