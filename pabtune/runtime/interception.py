"""Attaching to the sites of a model from outside, on diffusers' hooks, and detaching without a trace.

Knows where calls are and who wants to hear of them; knows nothing of policies or measurements: those are listeners.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import MethodType
from typing import Any, Protocol

from diffusers.hooks import HookRegistry, ModelHook
from torch import Tensor, nn

from pabtune.records.errors import ModelError
from pabtune.records.sites import Site
from pabtune.runtime.clock import Clock, ContextReader, Moment, Watch
from pabtune.runtime.targets import Target

ROOT_HOOK = "pabtune_root"
SITE_HOOK = "pabtune_site"
FEEDER_HOOK = "pabtune_feeder"
PARALLEL_HOOK = "pabtune_parallel"
"""Of what splits a transformer over processes: its sites see a part of the video."""

Forward = Callable[..., Any]


class Listener(Protocol):
    """Who is told of the calls of a model's transformers, and brings the hooks for its sites and feeders."""

    def begin(self, transformer: str, moment: Moment, shape: tuple[int, ...]) -> None:
        """A transformer is about to be called; `shape` is that of its first tensor."""

    def look_at(self, transformer: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The arguments of the call that has begun."""

    def pause(self) -> None:
        """A call that is no part of a run of the target is about to happen: nothing is measured, broadcast or kept."""

    def end(self, transformer: str) -> None:
        """The call is over."""

    def reset(self) -> None:
        """The pipeline is done, or asks to forget."""

    def site_hook(self, index: int) -> ModelHook:
        """The hook for a site."""

    def feeder_hook(self, index: int) -> ModelHook:
        """The hook for a feeder of a site."""


class RootHook(ModelHook):
    """Sits on a transformer: receives diffusers' cache context, and sees to it that calls are announced.

    The clock is read outside of the module's forward, so that a compiled forward holds nothing that changes per call.
    """

    _is_stateful = True

    def __init__(self, name: str, owner: "Interception") -> None:
        super().__init__()
        self.context = ContextReader()
        self.owner = owner
        self.is_announced = False
        self._name = name

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Calls the transformer, if pabtune knows of the call."""
        if not self.is_announced:
            raise ModelError(
                f"{self._name} was called past pabtune; call the module itself, not its forward, and compile it before a "
                "policy is enabled, not after"
            )
        return self.fn_ref.original_forward(*args, **kwargs)

    def reset_state(self, module: nn.Module) -> nn.Module:
        """Called by diffusers when a pipeline is done; for a bare transformer, nobody else tells."""
        if self.owner.target.pipeline is None:
            self.owner.listener.reset()
        return module


class DirectHook(ModelHook):
    """A hook that a module calls without anything between, if no other hook sits on the module.

    What diffusers' registry puts between is another object for every module, which dynamo tells apart: every layer of a
    model whose blocks are compiled would be compiled anew.
    """

    direct_forward: Callable[..., Any] | None = None
    """The forward of the module's class, which all layers have in common; None if other hooks sit on the module."""

    def compute(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        """What the module returns without the hook."""
        if self.direct_forward is not None:
            return self.direct_forward(module, *args, **kwargs)
        return self.fn_ref.original_forward(*args, **kwargs)


def call_directly(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """The forward of a module with a direct hook."""
    return module._pabtune_hook.new_forward(module, *args, **kwargs)  # type: ignore[operator, union-attr]


class Announcer:
    """Stands before every call of a transformer, compiled or not: reads the clock, tells the listener."""

    def __init__(self, hook: RootHook, name: str, caller: nn.Module, transformer: nn.Module) -> None:
        self._hook, self._name = hook, name
        self._caller, self._transformer = caller, transformer
        self._compiled = caller._compiled_call_impl
        caller._compiled_call_impl = self  # what nn.Module.__call__ looks for first

    @property
    def is_compiled(self) -> bool:
        """Whether the call that it stands before went through `torch.compile`."""
        return self._compiled is not None or self._caller is not self._transformer

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the transformer between the listener's `begin` and `end`."""
        owner, hook = self._hook.owner, self._hook
        if getattr(self._transformer, "is_cache_enabled", False):
            raise ModelError(f"another cache was enabled on {self._name} beside pabtune; disable one of the two")
        moment = owner.clock.read(self._name, self._transformer, hook.context.current(), args, kwargs)
        if moment is None:
            owner.listener.pause()
        else:
            first = next(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
            owner.listener.begin(self._name, moment, tuple(first.shape))
            owner.listener.look_at(self._name, args, kwargs)
        hook.is_announced = True
        try:
            output = (self._compiled or self._caller._call_impl)(*args, **kwargs)
        finally:
            hook.is_announced = False
        if moment is not None:
            owner.listener.end(self._name)
        return output

    def remove(self) -> None:
        """Leaves the module's calls as they were."""
        if self._compiled is None:
            vars(self._caller).pop("_compiled_call_impl", None)
        else:
            self._caller._compiled_call_impl = self._compiled


class SiteHook(ModelHook):
    """Asks a listener for the output of each call of a site."""

    def __init__(self, index: int, listener: "CallListener") -> None:
        super().__init__()
        self._index, self._listener = index, listener

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Asks, unless the listener pauses."""
        if self._listener.is_paused:
            return self.fn_ref.original_forward(*args, **kwargs)
        return self._listener.site(self._index, self.fn_ref.original_forward, args, kwargs)


class FeederHook(SiteHook):
    """Asks a listener for the output of each call of a feeder."""

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Asks, unless the listener pauses."""
        if self._listener.is_paused:
            return self.fn_ref.original_forward(*args, **kwargs)
        return self._listener.feed(self._index, self.fn_ref.original_forward, args, kwargs)


class CallListener(ABC):
    """A listener that is asked for every call of every site; what measures a model is one."""

    is_paused = True

    def pause(self) -> None:
        """Lets calls pass until the next `begin` (see `Listener`)."""
        self.is_paused = True

    def begin(self, transformer: str, moment: Moment, shape: tuple[int, ...]) -> None:
        """Ends a pause (see `Listener`)."""
        self.is_paused = False

    def look_at(self, transformer: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:  # noqa: B027
        """Does nothing (see `Listener`)."""

    def site_hook(self, index: int) -> ModelHook:
        """A hook that asks `site` (see `Listener`)."""
        return SiteHook(index, self)

    def feeder_hook(self, index: int) -> ModelHook:
        """A hook that asks `feed` (see `Listener`)."""
        return FeederHook(index, self)

    @abstractmethod
    def site(self, index: int, forward: Forward, args: Any, kwargs: Any) -> Any:
        """A site is called; returns its output."""

    @abstractmethod
    def feed(self, index: int, forward: Forward, args: Any, kwargs: Any) -> Any:
        """A feeder of site `index` is called; returns its output."""

    @abstractmethod
    def end(self, transformer: str) -> None:
        """The call is over (see `Listener`)."""

    @abstractmethod
    def reset(self) -> None:
        """The pipeline is done (see `Listener`)."""


class Interception:
    """All hooks of one listener on one target.

    Args:
        target: what to attach to.
        listener: who hears and answers.

    Raises:
        ModelError: pabtune is attached to the target already.
    """

    def __init__(self, target: Target, listener: Listener) -> None:
        for name, transformer in target.transformers.items():
            if find_interception(transformer) is not None:
                raise ModelError(f"pabtune is already attached to {name}; call pabtune.disable(…) first")
        self.target = target
        self.listener = listener
        self.clock = Clock(target.scheduler, target.pipeline)
        self._attached: list[tuple[nn.Module, str, bool, bool, Forward]] = []
        self._announcers: list[Announcer] = []
        self._watch: Watch | None = None
        try:
            self._attach_all()
        except BaseException:
            self.detach()
            raise

    def detach(self) -> None:
        """Removes every hook and what the listener holds; the model is as before. A second call does nothing."""
        for module, hook_name, had_registry, had_forward, forward in reversed(self._attached):
            remove_hook(module, hook_name, forward)
            vars(module).pop("_pabtune_hook", None)
            if module._diffusers_hook.hooks:
                continue  # somebody else came after us
            if not had_registry:
                del module._diffusers_hook
            if not had_forward and not hasattr(module, "_hf_hook"):
                vars(module).pop("forward", None)
        self._attached.clear()
        for transformer in self.target.transformers.values():
            vars(transformer).pop("__deepcopy__", None)
        while self._announcers:
            self._announcers.pop().remove()
        if self._watch is not None:
            self._watch.remove()
        self.clock.unwatch()
        self.listener.reset()
        self._invalidate()

    @property
    def is_compiled(self) -> bool:
        """Whether a transformer, or a part of one, went through `torch.compile`."""
        calls = [part._compiled_call_impl for each in self.target.transformers.values() for part in each.modules()]
        return any(
            call.is_compiled if isinstance(call, Announcer) else call is not None
            for call in (*calls, *self._announcers)
        )

    @contextmanager
    def _set_aside(self) -> Iterator[None]:
        """Takes our marks off the modules, for as long as they are copied: a copy is a model of its own."""
        aside = []
        for transformer in self.target.transformers.values():
            aside.append((transformer, {"__deepcopy__": vars(transformer).pop("__deepcopy__")}))
        for module, _, _, had_forward, _ in self._attached:
            hooks = module._diffusers_hook.hooks
            # Where others have hooks too, the copy keeps all of them, as any copy of a hooked model of diffusers does.
            if not had_forward and all(name in (ROOT_HOOK, SITE_HOOK, FEEDER_HOOK) for name in hooks):
                marks = [name for name in ("forward", "_diffusers_hook", "_pabtune_hook") if name in vars(module)]
                aside.append((module, {name: vars(module).pop(name) for name in marks}))
        try:
            yield
        finally:
            for module, values in aside:
                vars(module).update(values)

    def _attach_all(self) -> None:
        modules = {name: dict(part.named_modules()) for name, part in self.target.transformers.items()}
        for index, site in enumerate(self.target.sites):
            self._attach_site(index, site, modules[site.transformer])
        for name, transformer in self.target.transformers.items():
            hook = RootHook(name, self)
            self._attach(transformer, hook, ROOT_HOOK)
            self._announcers.append(Announcer(hook, name, self.target.callers[name], transformer))
            transformer.__deepcopy__ = partial(self._copy, transformer)  # type: ignore[assignment]
        if self.target.pipeline is not None:
            self._watch = Watch(self.target.pipeline, "maybe_free_model_hooks", self.listener.reset)
        self._invalidate()

    def _attach_site(self, index: int, site: Site, modules: dict[str, nn.Module]) -> None:
        self._attach(modules[site.path], self.listener.site_hook(index), SITE_HOOK)
        for feeder in site.feeders:
            self._attach(modules[feeder], self.listener.feeder_hook(index), FEEDER_HOOK)

    def _attach(self, module: nn.Module, hook: ModelHook, hook_name: str) -> None:
        had_registry, had_forward = hasattr(module, "_diffusers_hook"), "forward" in vars(module)
        registry = HookRegistry.check_if_exists_or_initialize(module)
        registry.register_hook(hook, hook_name)
        if isinstance(hook, DirectHook) and not had_forward and len(registry.hooks) == 1:
            hook.direct_forward = type(module).forward
            module._pabtune_hook = hook  # type: ignore[assignment]
            module.forward = MethodType(call_directly, module)  # type: ignore[assignment]
        self._attached.append((module, hook_name, had_registry, had_forward, module.forward))

    def _copy(self, transformer: nn.Module, memo: dict[int, Any]) -> nn.Module:
        """A copy without pabtune. With our hooks in it, it would run the original's sites."""
        with self._set_aside():
            return copy.deepcopy(transformer, memo)

    def _invalidate(self) -> None:
        """diffusers keeps a list of the registries below a model; it is stale when hooks come or go."""
        for transformer in self.target.transformers.values():
            if hasattr(transformer, "_diffusers_hook"):
                transformer._diffusers_hook.invalidate_child_registries_cache()


def remove_hook(module: nn.Module, hook_name: str, forward: Forward) -> None:
    """Removes a hook, also from under accelerate's offloading, which keeps the forward it found.

    Args:
        module: that it is on.
        hook_name: of it.
        forward: the module's, when the hook had been put there.
    """
    outer = vars(module).get("forward")
    is_under_offloading = outer is not forward and getattr(module, "_old_forward", None) is forward
    module._diffusers_hook.remove_hook(hook_name, recurse=False)
    if is_under_offloading:
        module._old_forward = module.forward
        module.forward = outer


def tensors_of(output: Any) -> list[Tensor]:
    """The tensors that a site returned.

    Raises:
        ModelError: it returned something else.
    """
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, tuple | list):
        return [tensor for part in output if part is not None for tensor in tensors_of(part)]
    raise ModelError(f"a site returned {type(output).__name__}; only tensors and tuples of tensors can be broadcast")


def find_interception(transformer: nn.Module) -> Interception | None:
    """The interception that is attached to a transformer."""
    registry = getattr(transformer, "_diffusers_hook", None)
    hook = registry.get_hook(ROOT_HOOK) if registry is not None else None
    return hook.owner if isinstance(hook, RootHook) else None


def is_split(transformer: nn.Module) -> bool:
    """Whether a transformer is split over processes."""
    registry = getattr(transformer, "_diffusers_hook", None)
    return registry is not None and registry.get_hook(PARALLEL_HOOK) is not None
