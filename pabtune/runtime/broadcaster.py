"""Applies a policy to a running model: sets the mode of each site before each call, by a plan fixed before the run.

Stored outputs belong to one call of the pipeline, by transformer and branch. They are held only while a later step of the
plan needs them, and are freed when the call ends, also by an exception.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from diffusers.hooks import ModelHook
from numpy.typing import NDArray
from torch import Tensor

from pabtune.libraries.torch_internals import raise_recompile_limits, storage_bytes
from pabtune.planning.masks import ComputeMask, resolve
from pabtune.planning.schedules import NoiseSchedule, same_schedule
from pabtune.records.errors import PolicyError
from pabtune.records.first_steps import FirstSteps
from pabtune.records.policies import AUTO_CONTENT, Policy, Store
from pabtune.runtime.compatibility import check_steps
from pabtune.runtime.contents import ContentChoice, ContentSites
from pabtune.runtime.first_steps import FirstStepsWatch
from pabtune.runtime.guidance import conditional_part
from pabtune.runtime.latest import Latest
from pabtune.runtime.ledger import CacheLedger, Meter, plain_bytes
from pabtune.runtime.listeners import Halved, Substitute, tensors_of
from pabtune.runtime.locator import CallPosition, Locator
from pabtune.runtime.payloads import Kept
from pabtune.runtime.pipeline_calls import PipelineCall, asked_steps
from pabtune.runtime.plans import Branch, CallRecord, Plan, free_left_behind
from pabtune.runtime.quantize import clone
from pabtune.runtime.site_hooks import (
    BROADCAST,
    COMPUTE,
    KEEP,
    FeederHook,
    SiteHook,
    StackHook,
    StackMemberHook,
    hook_for,
)  # fmt: skip
from pabtune.runtime.stores import STORES
from pabtune.runtime.targets import Target
from pabtune.runtime.undecided import move_branches, move_records, undecided_plan
from pabtune.runtime.whole_calls import WholeCalls


class Broadcaster:
    """Listener that broadcasts outputs by a policy.

    Args:
        targets: the model under each content class that a run may be of (see `Policy.choices`), with the blocks and stacks
            of that class among its sites.
        policy: the policy.
        content: content class whose rules are used; None = the policy's general rules; `auto` = each call's own.
        store: how outputs are stored.
        memory: limit of stored bytes on the device; None = no limit.
        any_steps: carry the policy to few denoising steps too.

    Attributes:
        target: the model, with the sites of all classes.
        ongoing: sessions of the pipeline calls in progress, by id.
        latest: session of each thread's own latest call.
        contents: what the rules of each content class are for.
        undecided: all sites, for runs whose first steps tell the class; None = the class is known before the run.
        choice: of the class, where it is known before the run.
    """

    def __init__(
        self,
        targets: Mapping[str | None, Target],
        policy: Policy,
        content: str | None,
        store: Store,
        memory: int | None,
        *,
        any_steps: bool,
    ) -> None:
        self.target = target = Target.joined(targets.values())
        self.policy, self.store, self.memory, self.any_steps = policy, store, memory, any_steps
        self.stores = {name: STORES[store]() for name in target.transformers}
        self.hooks = [hook_for(site, self.stores[site.transformer]) for site in target.sites]
        by_site = dict(zip(target.sites, self.hooks, strict=True))
        self._hooks_of: dict[str, list[SiteHook]] = {name: [] for name in target.transformers}
        for site, hook in by_site.items():
            self._hooks_of[site.transformer].append(hook)
        self.contents = {name: ContentSites.of(name, each, by_site) for name, each in targets.items()}
        by_steps = content == AUTO_CONTENT and policy.first_steps is not None
        self.undecided = ContentSites.of(None, target, by_site) if by_steps else None
        self.choice = ContentChoice(policy, content)
        self.ongoing: dict[int, BroadcastSession] = {}
        self.latest: Latest[BroadcastSession] = Latest()
        self._restore_limits: list[Callable[[], None]] = []
        self._most_patterns: dict[str | None, int] = {}

    def start(self, locator: Locator, call: PipelineCall | None, *, is_compiled: bool) -> "BroadcastSession":
        """Opens a session for a call of the pipeline (see `Listener`)."""
        sites = self.undecided or self.contents[self.choice.content_of(call)]
        session = BroadcastSession(self, sites, locator, is_compiled=is_compiled)
        self.latest.note(session, call)
        self.ongoing[id(session)] = session
        return session

    def site_hook(self, index: int) -> ModelHook:
        """The hook that computes or broadcasts a site (see `Listener`)."""
        return self.hooks[index]

    def feeder_hook(self, index: int) -> ModelHook:
        """The hook that skips a feeder of the site, or a further block of the stack (see `Listener`)."""
        hook = self.hooks[index]
        return StackMemberHook(hook) if isinstance(hook, StackHook) else FeederHook(hook)

    def rest(self, transformer: str) -> None:
        """Resets the hooks of a transformer, of every content class: a compiled graph has guards on them (see `Listener`)."""
        for hook in self._hooks_of[transformer]:
            hook.clear()
        self.stores[transformer].clear()

    def close(self) -> None:
        """Restores dynamo's limits (see `Listener`)."""
        while self._restore_limits:
            self._restore_limits.pop()()

    def allow_compilations(self, content: str | None, patterns: int) -> None:
        """Raises dynamo's limits so that a compiled model can have a graph for each pattern of each content class."""
        if patterns > self._most_patterns.get(content, 0):
            self._most_patterns[content] = patterns
            self._restore_limits.append(raise_recompile_limits(sum(self._most_patterns.values())))


class BroadcastSession:
    """Broadcasting during one call of the pipeline, or during successive runs of a bare transformer.

    Args:
        broadcaster: owner of the policy, hooks and stores.
        sites: what the rules of this call's content class are for.
        locator: source of the noise schedule.
        is_compiled: whether a transformer, or a part of one, went through `torch.compile`.

    Attributes:
        sites: as given.
        plan: plan of the current denoising loop; None before the first.
        branches: state of each branch, by transformer and branch name.
        ledger: sizes of outputs and the memory limit.
        records: one record for each transformer call, in call order.
    """

    def __init__(self, broadcaster: Broadcaster, sites: ContentSites, locator: Locator, *, is_compiled: bool) -> None:
        self._broadcaster, self.sites, self._locator, self._is_compiled = broadcaster, sites, locator, is_compiled
        self.plan: Plan | None = None
        self._active: Sequence[int] = ()
        self._halved: Halved | None = None
        self._watch: FirstStepsWatch | None = None
        self._masks: Mapping[str | None, ComputeMask] = {}
        self._whole_calls = WholeCalls(broadcaster.policy.name, sites.target, broadcaster.stores)
        self._clear_counts()

    @property
    def stored_bytes(self) -> int:
        """Bytes held now: on the device, or on the host if outputs are stored there."""
        branches = tuple(self.branches.values())  # another thread may ask while the call goes on
        stored = [kept.outputs for branch in branches for each in tuple(branch.stored.values()) for kept in each]
        stored += [self.sites.hooks[index].outputs for index in self._active]
        # Parts of one output are often views of one storage.
        return storage_bytes(tensor for outputs in stored for tensor in tensors_of(outputs))

    @property
    def called_steps(self) -> dict[str, list[int]]:
        """Steps in which each transformer was called, with repetitions."""
        steps: dict[str, list[int]] = {}
        for record in self.records:
            steps.setdefault(record.transformer, []).append(record.step)
        return steps

    def predicted_bytes(self) -> NDArray[np.float64]:
        """Predicted bytes held on the device in each step, (steps,).

        Only meaningful with a memory limit, and only from the end of the first step on: without one no sizes are noted.
        """
        if self.plan is None:
            return np.zeros(0)
        return self.ledger.predict(self.plan.mask, self.called_steps)

    def begin(self, position: CallPosition, sample: Tensor) -> Substitute | Halved | None:
        """Sets the mode of each of the transformer's sites for this call, or broadcasts the whole call (see `Session`).

        Raises:
            PolicyError: the policy does not fit the run's schedule.
        """
        if position.is_new_loop:
            self._start_loop()
        if self._watch is not None and self._watch.is_decided_at(position.step, sample):
            self._decide(self._watch.content())
        plan, transformer, step, shape = self.plan, position.transformer, position.step, tuple(sample.shape)
        if plan is None or step >= plan.mask.steps:
            steps = plan.mask.steps if plan else 0
            raise PolicyError(f"the model is called at step {step}, but the run has {steps} steps")
        free_left_behind(self.branches, transformer, step)
        branch = self.branches.setdefault((transformer, position.branch), Branch())
        follows = branch.step is not None and step == branch.step + 1 and shape == branch.shape
        if not follows:
            # No outputs of the previous step, or of another shape: this call computes everything.
            branch.stored.clear()
        branch.step, branch.shape = step, shape
        instead = self._whole_calls.begin(plan, position, branch, sample)
        if isinstance(instead, Substitute):
            served = self._whole_calls.broadcast
            self.records.append(
                CallRecord(transformer=transformer, step=step, branch=position.branch, computed=None, broadcast=served)
            )
            return instead
        self._halved, is_one_branch = instead, self._whole_calls.is_one_branch(plan, transformer, step)
        meter = self._meter(transformer, step) if self.ledger.limit is not None and not follows else None
        fetching_hooks, self._active = set(), self.sites.indices[transformer]
        for index in self._active:
            hook, history = self.sites.hooks[index], branch.stored.get(index, ())
            hook.calls, hook.nbytes, hook.meter = 0, 0, meter
            if history and not plan.computes[step][index]:
                hook.mode = BROADCAST
                hook.outputs, hook.is_ready = self._served_inside(index, history, step)
                if not hook.is_ready:
                    fetching_hooks.add(id(hook))
            elif self._halved is not None or (history and is_one_branch):
                hook.mode, hook.outputs = COMPUTE, ()  # one branch alone is not kept
            else:
                held = plan.held[step][index]
                hook.mode, hook.outputs = (KEEP if held else COMPUTE), ()
                branch.trim(index, max(held - 1, 0))
        self._broadcaster.stores[transformer].begin(fetching_hooks)
        return self._halved

    def end(self, position: CallPosition, output: Any) -> None:
        """Collects stored outputs from the hooks, counts calls and notes the bytes held (see `Session`).

        Raises:
            PolicyError: the run will hold more than the limit.
        """
        transformer, step = position.transformer, position.step
        branch, computed, served = self.branches[transformer, position.branch], set(), set(self._whole_calls.broadcast)
        assert self.plan is not None
        is_metered, store = False, self._broadcaster.stores[transformer]
        for index, outputs in self._whole_calls.end(self.plan, position, branch, output).items():
            computed.add(index)
            if self.ledger.limit is not None:
                self.ledger.note_size((transformer, position.branch), index, store.nbytes(tensors_of(outputs)))
                is_metered = True
        for index in self.sites.indices[transformer]:
            hook, held = self.sites.hooks[index], self.plan.held[step][index]
            if hook.calls:
                counts, indices = (branch.broadcast, served) if hook.mode == BROADCAST else (branch.computed, computed)
                counts[index] += 1
                indices.add(index)
                if hook.mode == KEEP:
                    branch.keep(index, self._outputs_of(hook), held)
                if hook.meter is not None:
                    self.ledger.note_size((transformer, position.branch), index, hook.nbytes)
                    is_metered = True
            branch.trim(index, held)
        self.records.append(
            CallRecord(
                transformer=transformer,
                step=step,
                branch=position.branch,
                computed=frozenset(computed),
                broadcast=frozenset(served),
                is_halved=self._halved is not None,
            )
        )
        self.ledger.note_held(self.stored_bytes)
        self._clear_hooks(transformer)
        if is_metered:
            self.ledger.check(self.plan.mask, self.called_steps)

    def abort(self, position: CallPosition) -> None:
        """Resets all sites to compute and frees the session's outputs (see `Session`)."""
        self._clear_hooks(position.transformer)
        self._forget()

    def finish(self) -> None:
        """Frees the session's outputs; counts stay readable (see `Session`)."""
        is_complete = self.plan is not None and bool(self.records) and self.records[-1].step == self.plan.mask.steps - 1
        self._forget()
        self._broadcaster.ongoing.pop(id(self), None)
        self._whole_calls.finish(is_complete=is_complete)

    def _served_inside(self, index: int, history: tuple[Kept, ...], step: int) -> tuple[tuple[Any, ...], bool]:
        """What a site inside a call serves: for a halved call, the conditional half (see `Plan.served`)."""
        assert self.plan is not None
        store = self._broadcaster.stores[self.sites.target.sites[index].transformer]
        if self._halved is None:
            return self.plan.served(index, history, step, store)
        half = self._halved.half
        return tuple(conditional_part(each, half) for each in self.plan.unpacked(index, history, step, store)), True

    def _outputs_of(self, hook: SiteHook) -> tuple[Any, ...]:
        """Outputs that a site keeps, cloned if the next replay of a CUDA graph would overwrite them."""
        hook.finish()
        if hook.mode == KEEP and self._is_compiled and self.sites.target.is_on_cuda:
            return clone(hook.outputs)
        return hook.outputs

    def _meter(self, transformer: str, step: int) -> Meter:
        """Counts the sizes of a call; the storages behind tensors are out of sight in a compiled graph."""
        broadcaster = self._broadcaster
        nbytes = plain_bytes if self._is_compiled else broadcaster.stores[transformer].nbytes
        is_limited = not self._is_compiled and broadcaster.store != "host"
        limit = self.ledger.limit if is_limited else None
        return Meter(nbytes, held=self.stored_bytes, limit=limit, policy=broadcaster.policy.name, step=step)

    def _start_loop(self) -> None:
        """Resolves the policy for a new denoising loop. Counts continue if a pipeline call has several loops."""
        if self.sites.target.pipeline is None:
            self._clear_counts()
        self._forget()
        broadcaster = self._broadcaster
        policy, schedule = broadcaster.policy, self._locator.schedule()
        check_steps(policy, schedule, asked_steps(), any_steps=broadcaster.any_steps)
        if self._is_compiled and broadcaster.store == "host":
            raise PolicyError("a compiled model cannot fetch outputs from the host: store them as `exact` or `int8`")
        if broadcaster.undecided is not None and policy.first_steps is not None:
            self._start_undecided(broadcaster.undecided, policy.first_steps, schedule)
        else:
            self._go_by(Plan.of(resolve(policy, self.sites.target.sites, schedule, self.sites.content)))

    def _start_undecided(self, sites: ContentSites, rule: FirstSteps, schedule: NoiseSchedule) -> None:
        """Plans the steps before the content class is told; on other schedules than the policy's they tell nothing."""
        broadcaster = self._broadcaster
        policy, contents = broadcaster.policy, broadcaster.contents
        self._move_to(sites)
        self._masks = {name: resolve(policy, own.target.sites, schedule, name) for name, own in contents.items()}
        if not same_schedule(policy.made_for, schedule):
            broadcaster.choice.warn_of_schedule()
            self._decide(None)
            return
        self._watch = FirstStepsWatch(rule)
        self._go_by(undecided_plan(policy.name, rule, self._masks, sites.target.sites), AUTO_CONTENT)

    def _decide(self, content: str | None) -> None:
        """Goes on under the rules of a content class, or the general ones, with what their sites kept."""
        contents, self._watch = self._broadcaster.contents, None
        sites = contents[content if content in contents else None]
        self._move_to(sites)
        self._go_by(Plan.of(self._masks[sites.content]))
        self._masks = {}

    def _move_to(self, sites: ContentSites) -> None:
        """Changes what the rules are for; what is held and counted of sites that stay goes along."""
        before, after = self.sites.target.sites, sites.target.sites
        if sites is self.sites:
            return
        move_branches(self.branches.values(), before, after)
        self.records = move_records(self.records, before, after)
        self.sites, broadcaster = sites, self._broadcaster
        self._whole_calls = WholeCalls(
            broadcaster.policy.name, sites.target, broadcaster.stores, earlier=self._whole_calls
        )

    def _go_by(self, plan: Plan, content: str | None = None) -> None:
        """Follows a plan from here on; a compiled model may have its graphs."""
        self.plan = plan
        for branch in self.branches.values():
            for index in tuple(branch.stored) if branch.step is not None else ():
                branch.trim(index, plan.held[branch.step][index])
        if self._is_compiled:
            self._broadcaster.allow_compilations(content or self.sites.content, plan.patterns)

    def _clear_counts(self) -> None:
        broadcaster = self._broadcaster
        self.branches: dict[tuple[str, str], Branch] = {}
        self.records: list[CallRecord] = []
        self.ledger = CacheLedger(
            self.sites.target.sites, broadcaster.store, broadcaster.memory, broadcaster.policy.name
        )

    def _clear_hooks(self, transformer: str) -> None:
        self._active, self._halved = (), None
        self._broadcaster.rest(transformer)

    def _forget(self) -> None:
        self._watch = None
        self._whole_calls.forget()
        for branch in self.branches.values():
            branch.forget()
