"""Applies a policy to a running model: computes or broadcasts each site, by a plan that is known before the run.

What is stored is keyed by transformer and branch, is kept only while a later step of the plan needs it, and is gone when
the run is over.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline
from diffusers.hooks import ModelHook
from numpy.typing import NDArray
from torch import nn

from pabtune.planning.costs.memory import format_bytes, held_bytes
from pabtune.planning.masks import ComputeMask, resolve
from pabtune.records.errors import PolicyError
from pabtune.records.policies import Policy
from pabtune.runtime.clock import Moment
from pabtune.runtime.interception import DirectHook, Interception, find_interception, tensors_of
from pabtune.runtime.targets import Target

SHAPES_PER_PATTERN = 8
"""Dynamo's own limit of compilations of one function."""

COMPUTE, KEEP, BROADCAST = range(3)
"""What a site does in a call: compute; compute and keep the output; return what was kept."""


class BroadcastHook(DirectHook):
    """Sits on a site. It only looks at its own attributes, which are set before the transformer is called.

    For a compiled model its `mode` is a constant of the graph; no layer's index is in it, so layers share what is compiled.
    """

    def __init__(self, state: tuple[str, ...]) -> None:
        super().__init__()
        self.mode = COMPUTE
        self.is_weighed = False
        self.weight = 0
        self.outputs: tuple[Any, ...] = ()
        self.calls = 0
        self._state = state

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Computes or returns what was kept; calls of one forward are told apart by their order."""
        call = self.calls
        self.calls = call + 1
        if self.mode == BROADCAST:
            if not any(kwargs.get(name) is not None for name in self._state):
                return self.outputs[call]
            # The call has an effect besides its output: it happens, and what it returns takes the place of what was kept.
            output = self.compute(module, args, kwargs)
            self.outputs = (*self.outputs[:call], output, *self.outputs[call + 1 :])
            return output
        output = self.compute(module, args, kwargs)
        if self.is_weighed:
            self.weight += sum([tensor.nbytes for tensor in tensors_of(output)])
        if self.mode == KEEP:
            self.outputs = (*self.outputs, output)
        return output


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


class Run:
    """A policy that is enabled on a model. Made by `enable` and `broadcast`.

    Attributes:
        policy: the policy.
        content: the content class whose rules are used; None = the policy's general rules.
        memory: bytes that may be held at most; None = any.
    """

    def __init__(self, target: Target, policy: Policy, content: str | None, memory: int | None = None) -> None:
        self.policy = policy
        self.content = content
        self.memory = memory
        self._target = target
        self._plan: Plan | None = None
        self._run: object = None
        self._branches: dict[tuple[str, str], Branch] = {}
        self._current = Branch()
        self._keeps: tuple[bool, ...] = ()
        self._hooks = [BroadcastHook(site.state) for site in target.sites]
        self._indices = {
            name: [index for index, site in enumerate(target.sites) if site.transformer == name]
            for name in target.transformers
        }
        self._most_bytes = 0
        self._is_done = True
        self._interception = Interception(target, self)

    @property
    def mask(self) -> ComputeMask | None:
        """The compute mask of the latest run; None before the first."""
        return self._plan.mask if self._plan else None

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
        """Bytes held right now."""
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
        branch = self._branches.setdefault((transformer, moment.branch), Branch())
        follows = branch.step is not None and moment.step == branch.step + 1 and shape == branch.shape
        if not follows:
            # Nothing of the step before is at hand, or it is of another shape: this call computes everything.
            branch.stored.clear()
        branch.step, branch.shape = moment.step, shape
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
        for index in self._indices[transformer]:
            hook = self._hooks[index]
            if hook.calls:
                (branch.broadcast if hook.mode == BROADCAST else branch.computed)[index] += 1
                if self._keeps[index]:
                    branch.stored[index] = hook.outputs
                if hook.is_weighed:
                    branch.weights[index] = hook.weight
        self._most_bytes = max(self._most_bytes, self.stored_bytes)
        self._clear_hooks()
        if self.memory is not None:
            self._check_memory()

    @property
    def predicted_bytes(self) -> NDArray[np.float64]:
        """Bytes that each step will hold, (steps,), by the outputs that were weighed; only with a limit of memory."""
        if self._plan is None:
            return np.zeros(0)
        sites = range(len(self._target.sites))
        weights = [sum(branch.weights.get(index, 0) for branch in self._branches.values()) for index in sites]
        return held_bytes(self._plan.mask, weights)

    def _check_memory(self) -> None:
        """Refuses a run that will hold too much, when the sizes of its outputs are known: in its first step."""
        held = self.predicted_bytes
        if self.memory is not None and held.max() > self.memory:
            raise PolicyError(
                f"policy {self.policy.name!r} would hold {format_bytes(held.max())} in step {int(held.argmax())}, more than "
                f"the limit of {format_bytes(self.memory)}; allow more, or search a policy with this limit"
            )

    def site_hook(self, index: int) -> ModelHook:
        """The hook that computes or broadcasts a site (see `Listener`)."""
        return self._hooks[index]

    def feeder_hook(self, index: int) -> ModelHook:
        """The hook that skips a feeder of a site that broadcasts (see `Listener`)."""
        return SkipHook(self._hooks[index])

    def _clear_hooks(self) -> None:
        for hook in self._hooks:
            hook.mode, hook.outputs, hook.calls = COMPUTE, (), 0

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
            self._most_bytes = 0
        self._is_done = False
        schedule = self._interception.clock.schedule()
        self._plan = Plan.of(resolve(self.policy, self._target.sites, schedule, self.content))
        if self._target.is_compiled:
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
    model: DiffusionPipeline | nn.Module, policy: Policy, content: str | None = None, memory: int | None = None
) -> Run:
    """Enables a policy on a pipeline, or on a bare transformer that is driven through `cache_context`.

    Args:
        model: a diffusers pipeline or transformer.
        policy: what to broadcast when.
        content: use the policy's variant for this content class.
        memory: bytes that may be held at most; a run that will need more is refused in its first step.

    Raises:
        ModelError: no sites are known for the model, another cache is enabled, or pabtune is attached already.
        PolicyError: the policy was made for another model, or does not fit its sites.
    """
    target = Target.of(model)
    check_fits(policy, target, content)
    return Run(target, policy, content, memory)


def disable(model: DiffusionPipeline | nn.Module) -> None:
    """Removes pabtune from a pipeline or transformer; does nothing where it is not attached."""
    parts: Mapping[str, Any] = model.components if isinstance(model, DiffusionPipeline) else {"": model}
    for part in parts.values():
        interception = find_interception(part) if isinstance(part, nn.Module) else None
        if interception is not None:
            interception.detach()


@contextmanager
def broadcast(
    model: DiffusionPipeline | nn.Module, policy: Policy, content: str | None = None, memory: int | None = None
) -> Iterator[Run]:
    """`enable` for the length of a `with` block; detaches and frees everything at its end, also after an error."""
    run = enable(model, policy, content, memory)
    try:
        yield run
    finally:
        run.disable()


def check_fits(policy: Policy, target: Target, content: str | None) -> None:
    """Refuses a policy that was made for another model, or that has rules for sites the model lacks.

    Raises:
        PolicyError: says what the policy was made for and what the model is.
    """
    made_for = policy.made_for
    if made_for.model not in (None, target.model_class):
        raise PolicyError(
            f"policy {policy.name!r} was made for {made_for.model}, but the model is {target.model_class}; "
            "profile and search this model to get its own policy"
        )
    if made_for.fingerprint not in (None, target.fingerprint()):
        raise PolicyError(
            f"policy {policy.name!r} was made for another {made_for.model}: its configuration or sites differ "
            f"(fingerprint {made_for.fingerprint}, this model's {target.fingerprint()}); profile and search this model"
        )
    kinds = {site.kind for site in target.sites}
    for rule in policy.rules_for(content):
        if rule.kind not in kinds:
            raise PolicyError(
                f"policy {policy.name!r}: the model has no {rule.kind!r} sites; it has: {', '.join(sorted(kinds))}"
            )
