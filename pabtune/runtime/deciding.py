"""Runs a policy that decides in each call: asks its deciders, sets the modes of the stacks, keeps what they compute.

What is kept belongs to one call of the pipeline, by transformer and branch, as a decider does; both end with that call.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from diffusers.hooks import ModelHook
from torch import Tensor

from pabtune.libraries.diffusers_internals import hook_names
from pabtune.libraries.torch_internals import storage_bytes
from pabtune.planning.schedules import NoiseSchedule
from pabtune.records.errors import ModelError, PolicyError
from pabtune.runtime.decided_sites import HookedSite, lay_out
from pabtune.runtime.deciders import COMPUTE, Decider, Decision, DynamicPolicy, Moment
from pabtune.runtime.decision_hooks import AttentionHook, DecidedStackHook, FrontHook, Gate, WatchHook
from pabtune.runtime.interception import PARALLEL_HOOK
from pabtune.runtime.latest import Latest
from pabtune.runtime.listeners import Substitute, tensors_of
from pabtune.runtime.locator import CallPosition, Locator
from pabtune.runtime.payloads import Kept, copied, taken_apart, weighted_sum
from pabtune.runtime.pipeline_calls import PipelineCall
from pabtune.runtime.plans import Branch, CallRecord, free_left_behind
from pabtune.runtime.site_hooks import BROADCAST, KEEP, StackMemberHook
from pabtune.runtime.stores import ExactStore
from pabtune.runtime.targets import Target


class Deciding:
    """Listener that lets a policy decide in each call.

    Args:
        target: the model.
        policy: the policy.

    Attributes:
        hooked: the model, with what the policy needs hooks on as its sites.
        inside: for each transformer, the indices of those of the model's own sites that a served call leaves out.
        gates: what the hooks of each transformer share.
        ongoing: sessions of the pipeline calls in progress, by id.
        latest: session of each thread's own latest call.

    Raises:
        ModelError: the model lacks what the policy needs.
    """

    def __init__(self, target: Target, policy: DynamicPolicy) -> None:
        self.target, self.policy = target, policy
        places = lay_out(target, policy)
        self.hooked = replace(target, sites=tuple(place.site for place in places))
        self.gates = {name: Gate() for name in target.transformers}
        self.store = ExactStore()
        self._hooks = [self._hook(place) for place in places]
        self.inside = {name: _sites_inside(target, name, places) for name in target.transformers}
        self.ongoing: dict[int, DecidingSession] = {}
        self.latest: Latest[DecidingSession] = Latest()

    def start(self, locator: Locator, call: PipelineCall | None, *, is_compiled: bool) -> "DecidingSession":
        """Opens a session for a call of the pipeline (see `Listener`).

        Raises:
            ModelError: the model is compiled or split over processes.
        """
        if is_compiled:
            raise ModelError(
                f"{self.policy.name} decides in each call, which a compiled model cannot; do not compile it"
            )
        for name, transformer in self.target.transformers.items():
            if any(each.startswith(PARALLEL_HOOK) for each in hook_names(transformer)):
                raise ModelError(
                    f"{self.policy.name} decides by what one process sees, but {name} is split over several, which would not "
                    "decide alike; run it on one"
                )
        session = DecidingSession(self, locator)
        self.latest.note(session, call)
        self.ongoing[id(session)] = session
        return session

    def site_hook(self, index: int) -> ModelHook:
        """The hook of a place (see `Listener`)."""
        return self._hooks[index]

    def feeder_hook(self, index: int) -> ModelHook:
        """The hook of a further block of a stack (see `Listener`)."""
        hook = self._hooks[index]
        assert isinstance(hook, DecidedStackHook)
        return StackMemberHook(hook)

    def rest(self, transformer: str) -> None:
        """Resets the hooks of a transformer (see `Listener`)."""
        self.gates[transformer].clear()

    def close(self) -> None:
        """Nothing to restore (see `Listener`)."""

    def _hook(self, place: HookedSite) -> ModelHook:
        gate = self.gates[place.site.transformer]
        match place.role:
            case "stack":
                return DecidedStackHook(self.store, gate)
            case "front":
                return FrontHook(gate, is_first=place.is_first, is_last=place.is_last)
            case "attention":
                return AttentionHook(gate)
            case "watched":
                return WatchHook(gate)


def _sites_inside(target: Target, name: str, places: tuple[HookedSite, ...]) -> frozenset[int]:
    """Indices of the sites of a transformer that lie inside of its stacks."""
    stacks = [place.site for place in places if place.role == "stack" and place.site.transformer == name]
    blocks = {block for stack in stacks for block in (stack.path, *stack.feeders)}
    return frozenset(
        index for index, site in enumerate(target.sites) if site.transformer == name and site.block in blocks
    )


@dataclass(slots=True)
class DecidedBranch(Branch):
    """State of one branch, with its decider."""

    decider: Decider | None = None

    def forget(self) -> None:
        """Frees what is kept, and what the decider holds; the next call computes (see `Branch`)."""
        Branch.forget(self)
        self.decider = None


@dataclass(slots=True)
class Asked:
    """A call that is going on.

    Attributes:
        position: of the call.
        branch: its branch.
        moment: what its decider is told.
        sample: first tensor of the call.
        decision: what it does.
        is_asked: whether its own decider was asked.
    """

    position: CallPosition
    branch: DecidedBranch
    moment: Moment
    sample: Tensor
    decision: Decision = COMPUTE
    is_asked: bool = False


class DecidingSession:
    """Deciding during one call of the pipeline, or during successive runs of a bare transformer.

    Args:
        owner: of the policy and the hooks.
        locator: source of the noise schedule.

    Attributes:
        branches: state of each branch, by transformer and branch name.
        records: one record for each transformer call, in call order.
        most_bytes: most bytes that were held, by deciders too.
    """

    def __init__(self, owner: Deciding, locator: Locator) -> None:
        self._owner, self._policy, self._locator = owner, owner.policy, locator
        self._schedule = NoiseSchedule(steps=1)
        self._calls: dict[str, Asked] = {}
        self._clear_counts()

    @property
    def steps(self) -> int:
        """Number of steps of the current denoising loop."""
        return self._schedule.steps

    @property
    def stored_bytes(self) -> int:
        """Bytes held now, by deciders too."""
        branches = tuple(self.branches.values())  # another thread may ask while the call goes on
        kept = [each.outputs for branch in branches for some in tuple(branch.stored.values()) for each in some]
        held = [tensor for outputs in kept for tensor in tensors_of(outputs)]
        for decider in [branch.decider for branch in branches]:
            seen = tuple(vars(decider).values()) if decider is not None else ()
            held += [value for value in seen if isinstance(value, Tensor)]
        return storage_bytes(held)

    def begin(self, position: CallPosition, sample: Tensor) -> Substitute | None:
        """Asks the decider, or lets the hooks do it (see `Session`).

        Raises:
            PolicyError: the policy is for another number of steps.
        """
        if position.is_new_loop:
            self._start_loop()
        transformer, step, shape = position.transformer, position.step, tuple(sample.shape)
        free_left_behind(self.branches, transformer, step)
        branch = self.branches.setdefault((transformer, position.branch), DecidedBranch())
        if branch.step is None or step != branch.step + 1 or shape != branch.shape:
            branch.forget()
            branch.decider = self._policy.decider(transformer, position.branch)
        branch.step, branch.shape = step, shape
        kept = tuple(each.step for each in branch.stored.get(0, ()))
        call = Asked(position, branch, Moment(step=step, schedule=self._schedule, kept=kept), sample)
        self._calls[transformer] = call
        gate, follows = self._owner.gates[transformer], self._leader(call) is not None
        if self._policy.point == "call" or follows:
            self._settle(call, sample)
            if self._policy.unit == "call" and not call.decision.computes:
                return self._in_place(call)
        else:
            for stack in gate.stacks:
                stack.mode = KEEP
            gate.ask = partial(self._settle, call)
        return None

    def end(self, position: CallPosition, output: Any) -> None:
        """Keeps what was computed, and tells the decider (see `Session`).

        Raises:
            ModelError: the call did not come to where it is decided.
        """
        call, gate = self._calls.pop(position.transformer), self._owner.gates[position.transformer]
        if gate.ask is not None:
            raise ModelError(f"a call of {position.transformer} did not come to where {self._policy.name} decides")
        branch, computes = call.branch, call.decision.computes
        if computes:
            kept = self._kept_of(call, output)
            for index, outputs in enumerate(kept):
                branch.keep(index, outputs, self._policy.history)
            if call.is_asked and branch.decider is not None:
                branch.decider.computed(call.moment, self._watched(gate, kept, output))
        self._count(call)
        self.most_bytes = max(self.most_bytes, self.stored_bytes)
        gate.clear()
        if call.moment.is_last:
            branch.forget()

    def abort(self, position: CallPosition) -> None:
        """Resets the hooks and frees what is held (see `Session`)."""
        self._calls.pop(position.transformer, None)
        self._owner.gates[position.transformer].clear()
        self._forget()

    def finish(self) -> None:
        """Frees what is held; counts stay readable (see `Session`)."""
        self._forget()
        self._owner.ongoing.pop(id(self), None)

    def _start_loop(self) -> None:
        """Begins a denoising loop. Counts continue if a pipeline call has several.

        Raises:
            PolicyError: the policy is for another number of steps.
        """
        if self._owner.target.pipeline is None:
            self._clear_counts()
        self._forget()
        self._schedule = self._locator.schedule()
        if self._policy.steps not in (None, self._schedule.steps):
            raise PolicyError(
                f"{self._policy.name} is for runs of {self._policy.steps} denoising steps, but this run has "
                f"{self._schedule.steps}; make it for that number"
            )

    def _clear_counts(self) -> None:
        self.branches: dict[tuple[str, str], DecidedBranch] = {}
        self.records: list[CallRecord] = []
        self.most_bytes = 0
        self._first: dict[str, tuple[int, Decision]] = {}

    def _forget(self) -> None:
        self._first.clear()
        for branch in self.branches.values():
            branch.forget()

    def _leader(self, call: Asked) -> Decision | None:
        """What the first call of this step did, if the others do as it did."""
        step, decision = self._first.get(call.position.transformer, (None, None))
        return decision if self._policy.is_shared and step == call.moment.step else None

    def _settle(self, call: Asked, seen: Tensor) -> None:
        """Asks the decider of a call, and sets the modes of the stacks."""
        transformer, branch = call.position.transformer, call.branch
        decision = self._leader(call)
        if decision is None:
            assert branch.decider is not None
            call.is_asked = True
            decision = branch.decider.decide(call.moment, seen)
            self._first[transformer] = (call.moment.step, decision)
        if len(call.moment.kept) <= len(decision.factors):
            decision = COMPUTE
        call.decision = decision
        for index, stack in enumerate(self._owner.gates[transformer].stacks):
            stack.mode = KEEP if decision.computes else BROADCAST
            if not decision.computes:
                stack.outputs, stack.is_ready = self._served(branch, index, decision)

    def _served(self, branch: DecidedBranch, index: int, decision: Decision) -> tuple[tuple[Any, ...], bool]:
        """What serves, and whether it is out of the store already."""
        history = branch.stored[index]
        if not decision.factors:
            return history[-1].outputs, False
        used: list[Kept] = list(history[-len(decision.factors) - 1 :])
        weights = [0.0] * len(used)
        weights[-1] = 1.0
        for back, factor in enumerate(decision.factors, start=1):
            weights[-back] += factor
            weights[-back - 1] -= factor
        return tuple(weighted_sum(parts, weights) for parts in zip(*(each.outputs for each in used), strict=True)), True

    def _kept_of(self, call: Asked, output: Any) -> list[tuple[Any, ...]]:
        """What is kept of a call that computed: of each stack, or of the whole call."""
        if self._policy.unit == "stack":
            stacks = self._owner.gates[call.position.transformer].stacks
            for stack in stacks:
                stack.finish()
            return [stack.outputs for stack in stacks]
        call.branch.rebuild, parts = taken_apart(output)
        return [(with_sample(parts, call.sample, -1),)]

    def _in_place(self, call: Asked) -> Substitute:
        """The output of a whole call that is served."""
        (parts,), _ = self._served(call.branch, 0, call.decision)
        self._calls.pop(call.position.transformer)
        self._count(call)
        output = call.branch.rebuild(with_sample(parts, call.sample, 1))
        if call.moment.is_last:
            call.branch.forget()
        return Substitute(output)

    def _watched(self, gate: Gate, kept: list[tuple[Any, ...]], output: Any) -> Tensor | None:
        """What the decider is told of a call that computed."""
        match self._policy.watch:
            case "call":
                return tensors_of(taken_apart(output)[1])[0]
            case "site":
                return gate.watched
            case "stack":
                first, *others = (tensors_of(outputs)[0] for outputs in kept)
                for each in others:
                    first = first + each
                return first
        return None

    def _count(self, call: Asked) -> None:
        """Records a call."""
        position, computes = call.position, call.decision.computes
        owner, transformer = self._owner, position.transformer
        (call.branch.computed if computes else call.branch.broadcast)[0] += 1
        computed: frozenset[int] | None = None
        if computes or self._policy.unit == "stack":
            every = {index for index, site in enumerate(owner.target.sites) if site.transformer == transformer}
            computed = frozenset(every if computes else every - owner.inside[transformer])
        self.records.append(
            CallRecord(transformer=transformer, step=position.step, branch=position.branch, computed=computed)
        )


def with_sample(parts: tuple[Any, ...], sample: Tensor, sign: int) -> tuple[Any, ...]:
    """Parts of an output with the call's sample added (1) or subtracted (-1) in the channels that the two share.

    Raises:
        ModelError: the first part has another shape than the sample.
    """
    first, *others = (copied(part) for part in parts)
    channels = min(first.shape[1], sample.shape[1]) if first.ndim == sample.ndim > 1 else 0
    output, latents = first[:, :channels], sample[:, :channels]
    if not channels or output.shape != latents.shape:
        raise ModelError(
            f"the transformer takes {tuple(sample.shape)} and puts out {tuple(first.shape)}; the difference cannot be kept"
        )
    changed = output + sign * latents.to(output.dtype)
    return (changed if channels == first.shape[1] else _replaced(first, changed, channels), *others)


def _replaced(tensor: Tensor, part: Tensor, channels: int) -> Tensor:
    """A tensor with its first channels replaced."""
    tensor = tensor.clone()
    tensor[:, :channels] = part
    return tensor
