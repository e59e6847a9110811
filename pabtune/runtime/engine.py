"""Applies a policy to a running model: computes or broadcasts each site, by a plan that is known before the run.

What is stored is keyed by transformer and branch, is kept only while a later step of the plan needs it, and is gone when
the run is over.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline
from diffusers.hooks import ModelHook
from numpy.typing import NDArray
from torch import nn

from pabtune.catalog import CATALOG, Catalog
from pabtune.models.guidance import calls_per_step
from pabtune.planning.costs.memory import format_bytes, held_bytes
from pabtune.planning.masks import ComputeMask, resolve
from pabtune.records.errors import PolicyError
from pabtune.records.policies import STORES, Policy, Store
from pabtune.records.sites import UNITS
from pabtune.runtime.broadcasting import BROADCAST, COMPUTE, KEEP, Branch, BroadcastHook, PassHook, Plan, SkipHook
from pabtune.runtime.clock import Moment, variables_of_call
from pabtune.runtime.fitting import check_fits
from pabtune.runtime.hosting import Ferry
from pabtune.runtime.interception import Interception, find_interception, is_split, tensors_of
from pabtune.runtime.storing import own
from pabtune.runtime.targets import Target
from pabtune.runtime.twin import weigh_outputs

SHAPES_PER_PATTERN = 8
"""Dynamo's own limit of compilations of one function."""


class Run:
    """A policy that is enabled on a model. Made by `enable` and `broadcast`.

    Attributes:
        policy: the policy.
        content: the content class whose rules are used; None = the policy's general rules.
        memory: bytes that may be held on the device at most; None = any.
    """

    def __init__(self, target: Target, policy: Policy, content: str | None, memory: int | None, store: Store) -> None:
        self.policy = policy
        self.content = content
        self.memory = memory
        self._target = target
        self._plan: Plan | None = None
        self._run: object = None
        self._branches: dict[tuple[str, str], Branch] = {}
        self._current = Branch()
        self._branch_name = ""
        self._keeps: tuple[bool, ...] = ()
        self._store = store
        self._ferry = Ferry() if store == "host" else None
        self._hooks = [
            BroadcastHook(store, self._ferry, site.kind if site.kind in UNITS else None) for site in target.sites
        ]
        self._indices = {
            name: [index for index, site in enumerate(target.sites) if site.transformer == name]
            for name in target.transformers
        }
        self._most_bytes = 0
        self._calls_per_step = 1.0
        self._is_done = True
        self._copies = False
        self._called: set[tuple[str, int]] = set()
        self._interception = Interception(target, self)

    @property
    def mask(self) -> ComputeMask | None:
        """The compute mask of the latest run; None before the first."""
        return self._plan.mask if self._plan else None

    @property
    def called(self) -> NDArray[np.bool_]:
        """(sites, steps): whether the site's transformer was called in that step of the latest run."""
        steps = range(self._plan.mask.steps if self._plan else 0)
        return np.array([[(site.transformer, step) in self._called for step in steps] for site in self._target.sites])

    @property
    def patterns(self) -> int:
        """Graphs that a compiled model needs per shape; 0 before the first run."""
        return self._plan.patterns if self._plan else 0

    @property
    def computed_calls(self) -> dict[tuple[str, str], int]:
        """Calls that computed in the latest call of the pipeline, by (branch, site name)."""
        return self._calls("computed")

    @property
    def broadcast_calls(self) -> dict[tuple[str, str], int]:
        """Calls that were served by a broadcast in the latest call of the pipeline, by (branch, site name)."""
        return self._calls("broadcast")

    @property
    def stored_bytes(self) -> int:
        """Bytes held right now, on the device or, if outputs are kept there, by the host."""
        stored = [outputs for branch in self._branches.values() for outputs in branch.stored.values()]
        stored += [hook.outputs for hook in self._hooks]
        storages = [tensor.untyped_storage() for outputs in stored for tensor in tensors_of(outputs)]
        # Parts of one output are often views of one storage.
        return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())

    def summary(self) -> dict[str, Any]:
        """Computed and broadcast calls per kind in the latest call of the pipeline, bytes held now and at most."""
        kinds = {site.name: site.kind for site in self._target.sites}
        computed: Counter[str] = Counter()
        broadcast: Counter[str] = Counter()
        for (_, name), count in self.computed_calls.items():
            computed[kinds[name]] += count
        for (_, name), count in self.broadcast_calls.items():
            broadcast[kinds[name]] += count
        return {
            "policy": self.policy.name,
            "computed_calls": dict(computed),
            "broadcast_calls": dict(broadcast),
            "stored_bytes": self.stored_bytes,
            "most_stored_bytes": self._most_bytes,
        }

    def disable(self) -> None:
        """Detaches from the model, which is then as before; frees what is held."""
        self._interception.detach()

    def begin(self, transformer: str, moment: Moment, shape: tuple[int, ...]) -> None:
        """Chooses what the sites of this call do (see `Listener`)."""
        if moment.run is not self._run:
            self._start(moment.run)
        plan = self._plan
        if plan is None or moment.step >= plan.mask.steps:
            steps = plan.mask.steps if plan else 0
            raise PolicyError(f"the model is called at step {moment.step}, but the run has {steps} steps")
        self._free_left_behind(transformer, moment.step)
        self._branch_name = moment.branch
        branch = self._branches.setdefault((transformer, moment.branch), Branch())
        follows = branch.step is not None and moment.step == branch.step + 1 and shape == branch.shape
        if not follows:
            # Nothing of the step before is at hand, or it is of another shape: this call computes everything.
            branch.stored.clear()
        branch.step, branch.shape = moment.step, shape
        self._called.add((transformer, moment.step))
        self._current = branch
        self._keeps = plan.keeps[moment.step]
        computes = plan.computes[moment.step]
        for index in self._indices[transformer]:
            hook = self._hooks[index]
            held = branch.stored.pop(index, ())
            hook.calls = hook.weight = 0
            hook.is_weighed = self.memory is not None and not follows
            if held and not computes[index]:
                hook.mode, hook.outputs = BROADCAST, held
            else:
                hook.mode, hook.outputs = (KEEP if self._keeps[index] else COMPUTE), ()
        if self._ferry is not None:
            self._ferry.begin({id(hook) for hook in self._hooks if hook.mode == BROADCAST})

    def look_at(self, transformer: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """With a limit of memory, refuses a run that will hold too much, before anything computes (see `Listener`).

        A transformer of the same class, which takes over later, will get the same arguments: it is weighed now. So are
        guidance branches to come, where the pipeline tells that it has them; each is weighed again when it comes.
        """
        if not any(self._hooks[index].is_weighed for index in self._indices[transformer]):
            return
        own_class = type(self._target.transformers[transformer])
        values = variables_of_call()
        if "self" in values and not is_split(self._target.transformers[transformer]):
            self._calls_per_step = calls_per_step(self._target.maps[transformer].card, values["self"], values)
        for name, other in self._target.transformers.items():
            if name != transformer and (type(other) is not own_class or (name, self._branch_name) in self._branches):
                continue
            weights = self._foresee(name, args, kwargs)
            if weights is None:
                continue  # they are weighed while the call goes on
            branch = self._branches.setdefault((name, self._branch_name), Branch())
            for index, weight in weights.items():
                branch.note_weight(index, weight)
                if name == transformer:
                    self._hooks[index].is_weighed = False
        self._check_memory()

    def _foresee(self, transformer: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[int, int] | None:
        """Bytes of the outputs of a transformer's sites in such a call; None if only the call itself can tell."""
        sites = {index: self._target.sites[index] for index in self._indices[transformer]}
        if is_split(self._target.transformers[transformer]):
            return None
        paths = {index: site.path for index, site in sites.items()}
        return weigh_outputs(self._target.transformers[transformer], paths, args, kwargs, self._hooks[0].weigh)

    def _free_left_behind(self, transformer: str, step: int) -> None:
        """Frees what nobody will ask for: a transformer for high noise has done its part when another takes over."""
        steps = {key: branch.step for key, branch in self._branches.items() if branch.step is not None}
        takes_over = not any(name == transformer and last >= step - 1 for (name, _), last in steps.items())
        for (name, branch_name), last in steps.items():
            if last < step - 1 or (takes_over and name != transformer and last < step):
                self._branches[name, branch_name].forget()

    def pause(self) -> None:
        """Computes everything in this call, and keeps nothing (see `Listener`)."""
        self._clear_hooks()

    def end(self, transformer: str) -> None:
        """Takes over what was kept, counts, notes the bytes held (see `Listener`)."""
        branch = self._current
        is_weighed = any(self._hooks[index].is_weighed for index in self._indices[transformer])
        for index in self._indices[transformer]:
            hook = self._hooks[index]
            if hook.calls:
                (branch.broadcast if hook.mode == BROADCAST else branch.computed)[index] += 1
                if self._keeps[index]:
                    hook.finish()
                    branch.stored[index] = own(hook.outputs) if self._copies and hook.mode == KEEP else hook.outputs
                if hook.is_weighed:
                    branch.note_weight(index, hook.weight)
            elif hook.mode == BROADCAST and self._keeps[index]:
                branch.stored[index] = hook.outputs  # the block around it was served as a whole
        self._most_bytes = max(self._most_bytes, self.stored_bytes)
        self._clear_hooks()
        if is_weighed:
            self._check_memory()

    @property
    def predicted_bytes(self) -> NDArray[np.float64]:
        """Bytes that each step will hold on the device, (steps,), by the outputs weighed; only with a limit of memory."""
        if self._plan is None:
            return np.zeros(0)
        weights = np.zeros((len(self._indices), len(self._target.sites)))
        for row, transformer in enumerate(self._indices):
            own = [branch for (name, _), branch in self._branches.items() if name == transformer]
            for branch in own:
                # Until the others come they are taken to be like the first.
                like_this = self._calls_per_step if len(own) == 1 else 1
                weights[row, list(branch.weights)] += like_this * np.array(list(branch.weights.values()))
        held = np.array([held_bytes(self._plan.mask, row.tolist(), self._store) for row in weights])
        steps = [step for _, step in self._called]
        # One that takes over frees what the other held; in one step, both hold.
        take_turns = len(steps) == len(set(steps))
        return held.max(axis=0) if take_turns else held.sum(axis=0)

    def _check_memory(self) -> None:
        """Refuses a run that will hold too much, as soon as the sizes of its outputs are known: in its first step."""
        held = self.predicted_bytes
        if self.memory is not None and held.max() > self.memory:
            self.reset()
            raise PolicyError(
                f"policy {self.policy.name!r} would hold {format_bytes(held.max())} in step {int(held.argmax())}, more than "
                f"the limit of {format_bytes(self.memory)}; allow more, or search a policy with this limit"
            )

    def site_hook(self, index: int) -> ModelHook:
        """The hook that computes or broadcasts a site (see `Listener`)."""
        return self._hooks[index]

    def feeder_hook(self, index: int) -> ModelHook:
        """The hook that skips a feeder of a site that broadcasts, or a further block of a stack (see `Listener`)."""
        return (PassHook if self._target.sites[index].kind == "stack" else SkipHook)(self._hooks[index])

    def _clear_hooks(self) -> None:
        for hook in self._hooks:
            hook.mode, hook.outputs, hook.calls = COMPUTE, (), 0
        if self._ferry is not None:
            self._ferry.clear()

    def reset(self) -> None:
        """Frees what is held; counts stay readable. The next call starts a run."""
        self._is_done = True
        self._clear_hooks()
        for branch in self._branches.values():
            branch.forget()

    def _start(self, run: object) -> None:
        """A denoising loop starts. Counts go on where one call of the pipeline has several loops, one after another."""
        self._run = run
        last = self._plan.mask.steps - 1 if self._plan else None
        if not self._is_done and any(branch.step == last for branch in self._branches.values()):
            for branch in self._branches.values():
                branch.forget()
        else:
            self._branches.clear()
            self._called.clear()
            self._most_bytes = 0
            self._calls_per_step = 1.0
        self._is_done = False
        schedule = self._interception.clock.schedule()
        self._plan = Plan.of(resolve(self.policy, self._target.sites, schedule, self.content))
        is_compiled = self._interception.is_compiled
        self._copies = is_compiled and self._target.is_on_cuda
        if is_compiled and self._store == "host":
            raise PolicyError("a compiled model cannot fetch outputs from the host: store them as `exact` or `int8`")
        if is_compiled:
            allow_compilations(self._plan.patterns)

    def _calls(self, what: str) -> dict[tuple[str, str], int]:
        sites = self._target.sites
        return {
            (branch_name, sites[index].name): count
            for (_, branch_name), branch in self._branches.items()
            for index, count in getattr(branch, what).items()
        }


def allow_compilations(patterns: int) -> None:
    """Lets dynamo compile each pattern for as many shapes as it allows without pabtune.

    Over its limit it runs eagerly from then on, with nothing but a warning.
    """
    config = torch._dynamo.config
    config.recompile_limit = max(config.recompile_limit, SHAPES_PER_PATTERN * patterns)
    config.accumulated_recompile_limit = max(config.accumulated_recompile_limit, 4 * config.recompile_limit)


def enable(
    model: DiffusionPipeline | nn.Module,
    policy: Policy,
    content: str | None = None,
    memory: int | None = None,
    store: Store | None = None,
    catalog: Catalog = CATALOG,
) -> Run:
    """Enables a policy on a pipeline, or on a bare transformer that is driven through `cache_context`.

    Args:
        model: a diffusers pipeline or transformer.
        policy: what to broadcast when.
        content: use the policy's variant for this content class.
        memory: bytes that may be held on the device at most. A run that will need more is refused before its first call;
            where a pipeline does not tell how many guidance branches it has, before the call of the one that is too much.
        store: how outputs are kept, see `Policy.store`; None = as the policy says.
        catalog: what is known of transformer classes.

    Raises:
        ModelError: no sites are known for the model, another cache is enabled, or pabtune is attached already.
        PolicyError: the policy was made for another model, or does not fit its sites.
    """
    target = Target.of(model, catalog)
    target = target.under(policy, content)
    check_fits(policy, target, content)
    store = store or policy.store
    if store not in STORES:
        raise PolicyError(f"cannot store outputs as {store!r}; known: {', '.join(STORES)}")
    return Run(target, policy, content, memory, store)


def disable(model: DiffusionPipeline | nn.Module) -> None:
    """Removes pabtune from a pipeline or transformer; does nothing where it is not attached."""
    parts: Mapping[str, Any] = model.components if isinstance(model, DiffusionPipeline) else {"": model}
    for part in parts.values():
        interception = find_interception(part) if isinstance(part, nn.Module) else None
        if interception is not None:
            interception.detach()


@contextmanager
def broadcast(
    model: DiffusionPipeline | nn.Module,
    policy: Policy,
    content: str | None = None,
    memory: int | None = None,
    store: Store | None = None,
    catalog: Catalog = CATALOG,
) -> Iterator[Run]:
    """`enable` for the length of a `with` block; detaches and frees everything at its end, also after an error."""
    run = enable(model, policy, content, memory, store, catalog)
    try:
        yield run
    finally:
        run.disable()
