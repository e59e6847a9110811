"""Attaching a listener to the transformers of a model, and detaching it without a trace.

Knows calls, the runs they belong to, and the listener; knows nothing of policies or measurements.
"""

import copy
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from diffusers import DiffusionPipeline
from torch import Tensor, nn

from pabtune.libraries.diffusers_internals import (
    CacheContextReader,
    StatefulHook,
    find_hook,
    hook_names,
    invalidate_registries,
)
from pabtune.libraries.torch_internals import call_module, compiled_call, set_compiled_call, unwrap_compiled
from pabtune.records.errors import ModelError, PabtuneWarning
from pabtune.runtime.attachment import attach, set_aside
from pabtune.runtime.listeners import Listener, Session, Substitute
from pabtune.runtime.locator import CallPosition, Locator
from pabtune.runtime.pipeline_calls import PipelineCall, current_call, observe, observers_of
from pabtune.runtime.targets import Target

HOOKS = "pabtune_listener"
"""Prefix of the names of an interception's hooks; its identity follows."""

PARALLEL_HOOK = "pabtune_parallel"
"""Name of the hooks that split a transformer over processes; its sites then process a part of the video."""

BATCH_HOOK = f"{PARALLEL_HOOK}_batch"
"""Name of the hooks that split the samples of a call over processes."""


class ParallelHook(StatefulHook):
    """Base of the outermost hooks of transformers that are split over processes.

    Attributes:
        shares_branches: whether processes compute different guidance branches.
    """

    shares_branches = False


class RootHook(StatefulHook):
    """Hook on a transformer: receives diffusers' cache context, and refuses calls that were not intercepted.

    Calls are located outside the module's forward, so that a compiled forward contains nothing that changes per call.
    """

    def __init__(self, name: str, interception: "Interception") -> None:
        super().__init__()
        self.context = CacheContextReader()
        self.interception = interception
        self.is_intercepted = False
        self._name = name

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Calls the transformer, if the call was intercepted."""
        if not self.is_intercepted:
            raise ModelError(
                f"{self._name} was called past pabtune; call the module itself, not its forward, and compile it before a "
                "policy is enabled, not after"
            )
        return self.fn_ref.original_forward(*args, **kwargs)

    def reset_state(self, module: nn.Module) -> nn.Module:
        """Called by diffusers when a run is over: the only end that the run of a bare transformer has."""
        self.interception.reset_bare_transformer()
        return module


class CallInterceptor:
    """Wraps every call of a transformer, compiled or not: locates it and calls the session before and after it.

    The mode of a site is an attribute of its hook, so calls of one transformer are serialized over all threads and
    pipelines.
    """

    def __init__(self, hook: RootHook, name: str, caller: nn.Module, transformer: nn.Module) -> None:
        self._hook, self._name = hook, name
        self._caller, self._transformer = caller, transformer
        self._inner = compiled_call(caller)
        self._lock = lock_of(transformer)
        self._is_removed = False
        set_compiled_call(caller, self)

    @property
    def is_compiled(self) -> bool:
        """Whether the wrapped call went through `torch.compile`."""
        if isinstance(self._inner, CallInterceptor):
            return self._inner.is_compiled
        return self._inner is not None or self._caller is not self._transformer

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the transformer through every interceptor that is on it by now.

        While a thread waited for another one's call, interceptors may have been added, or this one removed.
        """
        with self._lock:
            outer = compiled_call(self._caller)
            if isinstance(outer, CallInterceptor):
                return outer._intercept(args, kwargs)
            if not self._is_removed:
                return self._intercept(args, kwargs)
            return outer(*args, **kwargs) if outer is not None else call_module(self._caller, *args, **kwargs)

    def _intercept(self, args: Any, kwargs: Any) -> Any:
        """Calls the transformer between the session's `begin` and `end`."""
        if getattr(self._transformer, "is_cache_enabled", False):
            raise ModelError(f"another cache was enabled on {self._name} beside pabtune; disable one of the two")
        interception = self._hook.interception
        session = interception.session()
        if session is None:
            return self._call(args, kwargs)
        locator, context = interception.locator(), self._hook.context.current()
        position = locator.locate(self._name, self._transformer, context, args, kwargs)
        locator.advance(position, context)
        first = next(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
        try:
            instead = session.begin(position, first)
            if isinstance(instead, Substitute):
                return instead.output
            if instead is not None:
                args, kwargs = instead.arguments(args, kwargs)
            output = self._call(args, kwargs)
            if instead is not None:
                output = instead.complete(output)
            session.end(position, output)
        except BaseException:
            session.abort(position)
            raise
        return output

    def remove(self) -> None:
        """Removes this interceptor from the module's calls; later interceptors stay."""
        self._is_removed = True
        outer = compiled_call(self._caller)
        if outer is self:
            set_compiled_call(self._caller, self._inner)
            return
        while isinstance(outer, CallInterceptor):
            if outer._inner is self:
                outer._inner = self._inner
            outer = outer._inner

    def _call(self, args: Any, kwargs: Any) -> Any:
        self._hook.is_intercepted = True
        try:
            if isinstance(self._inner, CallInterceptor):
                return self._inner._intercept(args, kwargs)
            if self._inner is not None:
                return self._inner(*args, **kwargs)
            return call_module(self._caller, *args, **kwargs)
        finally:
            self._hook.is_intercepted = False


_LOCKS: weakref.WeakKeyDictionary[nn.Module, Any] = weakref.WeakKeyDictionary()
_NEW_LOCKS = threading.Lock()


def lock_of(transformer: nn.Module) -> Any:
    """The lock that serializes the calls of a transformer, and whatever changes its hooks, over all threads."""
    with _NEW_LOCKS:
        return _LOCKS.setdefault(transformer, threading.RLock())


class Interception:
    """Attachment of one listener to one target. Several pipelines that share a transformer may have one each.

    Args:
        target: the model to attach to.
        listener: provides the site hooks and the sessions.

    Raises:
        ModelError: pabtune is already attached to this pipeline or to the bare transformer.
    """

    def __init__(self, target: Target, listener: Listener) -> None:
        self.target = target
        self.listener = listener
        for name, transformer in target.transformers.items():
            for other in interceptions_of(transformer):
                if other.target.pipeline is None or target.pipeline is None or other.covers(target.pipeline):
                    raise ModelError(f"pabtune is already attached to {name}; call pabtune.disable(…) first")
        self._prefix = f"{HOOKS}_{id(self):x}"
        self._sessions: dict[PipelineCall | None, tuple[Session, Locator]] = {}
        self._undo: list[Callable[[], None]] = []
        self._interceptors: list[CallInterceptor] = []
        self._plain_pipelines: weakref.WeakSet[DiffusionPipeline] = weakref.WeakSet()
        self._warned_of_others = False
        self.is_attached = True
        try:
            with self._holding_calls():
                self._attach_all()
        except BaseException:
            self.detach()
            raise

    def covers(self, pipeline: DiffusionPipeline) -> bool:
        """Whether calls of this pipeline are intercepted: it is the target's pipeline or a shallow copy of it."""
        return self.is_attached and any(observer is self for observer in observers_of(pipeline))

    def session(self) -> Session | None:
        """The session of this thread's current pipeline call; None if the transformer is called outside such a call."""
        call = current_call()
        if self.target.pipeline is None:
            return self._session_of(None)
        if call is None:
            self._warn_of_others()
            return None
        if not self.covers(call.pipeline):
            self._warn_of_pipeline(call.pipeline)
            return None
        return self._session_of(call)

    def locator(self) -> Locator:
        """The locator that belongs to `session()`."""
        call = current_call() if self.target.pipeline is not None else None
        return self._sessions[call][1]

    def begin_call(self, call: PipelineCall) -> None:
        """Starts the session of a pipeline call (see `CallObserver`).

        Raises:
            ModelError: a transformer of the pipeline was replaced since pabtune was attached.
        """
        if not self.is_attached:
            return
        for name, transformer in self.target.transformers.items():
            if unwrap_compiled(getattr(call.pipeline, name, None)) is not transformer:
                raise ModelError(
                    f"{name} of the pipeline was replaced after pabtune was attached to it; call pabtune.disable(pipeline), "
                    "then enable the policy again"
                )
        self._session_of(call)

    def end_call(self, call: PipelineCall) -> None:
        """Finishes the session of a pipeline call (see `CallObserver`)."""
        session, _ = self._sessions.pop(call, (None, None))
        if session is not None:
            session.finish()

    def reset_bare_transformer(self) -> None:
        """Finishes the current run of a bare transformer."""
        if self.target.pipeline is None and None in self._sessions:
            self._sessions[None][0].finish()

    def detach(self) -> None:
        """Removes every hook and closes the listener; the model is then as before. A second call does nothing.

        It waits for a call of a transformer that another thread is in.
        """
        with self._holding_calls():
            self._detach()

    @contextmanager
    def _holding_calls(self) -> Iterator[None]:
        """No other thread is in a call of a transformer."""
        with ExitStack() as stack:
            for transformer in self.target.transformers.values():
                stack.enter_context(lock_of(transformer))
            yield

    def _detach(self) -> None:
        self.is_attached = False
        while self._undo:
            self._undo.pop()()
        while self._interceptors:
            self._interceptors.pop().remove()
        for transformer in self.target.transformers.values():
            if not interceptions_of(transformer):
                vars(transformer).pop("__deepcopy__", None)
                vars(transformer).pop("__reduce_ex__", None)
            invalidate_registries(transformer)
        while self._sessions:
            self._sessions.popitem()[1][0].finish()
        self.listener.close()

    @property
    def is_compiled(self) -> bool:
        """Whether a transformer, or a part of one, went through `torch.compile`."""
        calls = [compiled_call(part) for each in self.target.transformers.values() for part in each.modules()]
        return any(
            call.is_compiled if isinstance(call, CallInterceptor) else call is not None
            for call in (*calls, *self._interceptors)
        )

    def _session_of(self, call: PipelineCall | None) -> Session:
        if call not in self._sessions:
            pipeline = call.pipeline if call is not None else None
            locator = Locator(lambda: getattr(pipeline, "scheduler", None))
            self._sessions[call] = self.listener.start(locator, call, is_compiled=self.is_compiled), locator
        return self._sessions[call][0]

    def _warn_of_others(self) -> None:
        """Warns once of a call that no pipeline of an observed class makes."""
        if not self._warned_of_others:
            self._warned_of_others = True
            warnings.warn(
                "a transformer was called, but not by the pipeline that pabtune is attached to, and computes everything; "
                "for another pipeline around it call pabtune.enable(…) on that too; for a loop of your own enable the policy "
                "on the transformer, and call it inside transformer.cache_context(…)",
                PabtuneWarning,
                stacklevel=2,
            )

    def _warn_of_pipeline(self, pipeline: DiffusionPipeline) -> None:
        """Warns once that a pipeline runs without pabtune, unless another interception covers it."""
        transformers = self.target.transformers.values()
        is_covered = any(each.covers(pipeline) for part in transformers for each in interceptions_of(part))
        if pipeline in self._plain_pipelines or is_covered:
            return
        self._plain_pipelines.add(pipeline)
        warnings.warn(
            f"{type(pipeline).__name__} shares a transformer with a pipeline that pabtune is attached to, and runs without "
            "it; call pabtune.enable(…) for this pipeline too",
            PabtuneWarning,
            stacklevel=2,
        )

    def _attach_all(self) -> None:
        modules = {name: dict(part.named_modules()) for name, part in self.target.transformers.items()}
        for index, site in enumerate(self.target.sites):
            if not site.path:
                continue  # whole calls: the interceptor's
            self._attach(modules[site.transformer][site.path], self.listener.site_hook(index), "site")
            for feeder in site.feeders:
                self._attach(modules[site.transformer][feeder], self.listener.feeder_hook(index), "feeder")
        for name, transformer in self.target.transformers.items():
            hook = RootHook(name, self)
            self._attach(transformer, hook, "root")
            self._interceptors.append(CallInterceptor(hook, name, self.target.callers[name], transformer))
            transformer.__deepcopy__ = partial(copy_without_pabtune, transformer)  # type: ignore[assignment]
            vars(transformer)["__reduce_ex__"] = partial(refuse_pickling, name)
            invalidate_registries(transformer)
        if self.target.pipeline is not None:
            self._undo.append(observe(self.target.pipeline, self))

    def _attach(self, module: nn.Module, hook: Any, role: str) -> None:
        name = f"{self._prefix}_{role}"
        same = sum(each.startswith(name) for each in hook_names(module))  # stacks of several variants may share blocks
        self._undo.append(attach(module, hook, f"{name}_{same}" if same else name))


def copy_without_pabtune(transformer: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """Deep copy of a transformer without pabtune's hooks, which would call the modules of the original."""
    with lock_of(transformer):
        attributes = {name: vars(transformer).pop(name) for name in ("__deepcopy__", "__reduce_ex__")}
        try:
            with set_aside(transformer, HOOKS):
                return copy.deepcopy(transformer, memo)
        finally:
            vars(transformer).update(attributes)


def refuse_pickling(name: str, protocol: int) -> Any:
    """Raises an error that says what to do; hooks, and what they hold, belong to one process."""
    raise ModelError(
        f"{name} cannot be pickled while pabtune is attached to it; call pabtune.disable(pipeline) first, and enable the "
        "policy in the process that runs the pipeline"
    )


def interceptions_of(transformer: nn.Module) -> list[Interception]:
    """All interceptions that are attached to a transformer."""
    hooks = (find_hook(transformer, name) for name in hook_names(transformer) if name.startswith(HOOKS))
    return [hook.interception for hook in hooks if isinstance(hook, RootHook)]


def shares_branches(transformer: nn.Module) -> bool:
    """Whether processes compute different guidance branches of a transformer's calls."""
    hook = find_hook(transformer, PARALLEL_HOOK)
    return isinstance(hook, ParallelHook) and hook.shares_branches


def shares_samples(transformer: nn.Module) -> bool:
    """Whether processes compute different samples of a transformer's calls."""
    return find_hook(transformer, BATCH_HOOK) is not None


def detach_from(model: DiffusionPipeline | nn.Module) -> None:
    """Detaches all interceptions from a pipeline or a bare transformer; does nothing if there are none."""
    if isinstance(model, DiffusionPipeline):
        parts = [unwrap_compiled(part) for part in model.components.values()]
        attached = {id(each): each for part in parts if isinstance(part, nn.Module) for each in interceptions_of(part)}
        attached |= {id(each): each for each in observers_of(model) if isinstance(each, Interception)}
        for each in attached.values():
            if each.target.pipeline is None or each.covers(model):
                each.detach()
        return
    for each in interceptions_of(unwrap_compiled(model)):
        each.detach()


__all__ = [
    "BATCH_HOOK", "PARALLEL_HOOK", "CallInterceptor", "CallPosition", "Interception", "ParallelHook", "RootHook",
    "copy_without_pabtune", "detach_from", "interceptions_of", "shares_branches", "shares_samples",
]  # fmt: skip
