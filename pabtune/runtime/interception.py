"""Attaching a listener to the transformers of a model, and detaching it without a trace.

Knows calls, the runs they belong to, and the listener; knows nothing of policies or measurements.
"""

import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from diffusers import DiffusionPipeline
from diffusers.hooks.hooks import CacheContext
from torch import nn

from pabtune.libraries.diffusers_internals import (
    StatefulHook,
    find_hook,
    hook_names,
    invalidate_registries,
    reaches_hooks,
)
from pabtune.libraries.torch_internals import compiled_call, unwrap_compiled
from pabtune.records.errors import ModelError, PabtuneWarning
from pabtune.runtime.attachment import attach, copy_without_hooks
from pabtune.runtime.interceptors import CallInterceptor, RootHook, lock_of
from pabtune.runtime.listeners import Listener, Session
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
        awaits_branch: whether the latest call has returned an output without values, which the next call of its step fills.
    """

    shares_branches = False
    awaits_branch = False


class LoopOwner:
    """Refuses two denoising loops of one bare transformer that take turns: each would go on with the other's outputs.

    A loop may go from thread to thread, and one that was given up may be followed by a new one. A thread whose loop was left
    unfinished for another thread's may not go on until that one is finished, or begins a loop itself: whose step it would
    compute cannot be told. In one thread, loops that take turns come back to a step that is not the first while another one
    is unfinished.
    """

    def __init__(self) -> None:
        self._thread: int | None = None
        self._is_over = True
        self._steps: int | None = None
        self._left = set[int]()

    def check(self, position: CallPosition, steps: int | None) -> None:
        """Notes a call by this thread.

        Args:
            position: of the call.
            steps: denoising steps of the loop; None = not known.

        Raises:
            ModelError: another loop began since this one, and is unfinished.
        """
        thread = threading.get_ident()
        self._steps = steps or self._steps
        if position.is_new_loop and position.step > 0 and not self._is_over:
            raise ModelError(
                f"{position.transformer} is called at step {position.step} again, or of another loop, while the loop "
                "whose outputs it holds is unfinished; run loops one after the other, give calls of one step different names "
                f"in cache_context, and after a loop that was given up call {position.transformer}._reset_stateful_cache()"
            )
        if position.is_new_loop:
            if self._thread not in (None, thread) and not self._is_over:
                self._left.add(self._thread)  # type: ignore[arg-type]
            self._left.discard(thread)
        elif thread in self._left:
            raise ModelError(
                f"two threads drive {position.transformer} at once, which holds the outputs of one denoising loop; call one "
                f"after the other, or enable the policy on pipelines, which hold their own; after a loop that was given up "
                f"call {position.transformer}._reset_stateful_cache()"
            )
        self._thread, self._is_over = thread, self._steps is not None and position.step + 1 >= self._steps
        if self._is_over:
            self._left.clear()


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
        self._hooked: list[nn.Module] = []
        self._plain_pipelines: weakref.WeakSet[DiffusionPipeline] = weakref.WeakSet()
        self._warned_of_others = False
        self._owner = LoopOwner()
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
            ModelError: a transformer of the pipeline was replaced, or hooks were taken off it, since pabtune was attached.
        """
        if not self.is_attached:
            return
        for name, transformer in self.target.transformers.items():
            if unwrap_compiled(getattr(call.pipeline, name, None)) is not transformer:
                raise ModelError(
                    f"{name} of the pipeline was replaced after pabtune was attached to it; call pabtune.disable(pipeline), "
                    "then enable the policy again"
                )
        with self._holding_calls():  # hooks go on and off one by one
            if self.is_attached and not all(map(reaches_hooks, self._hooked)):
                raise ModelError(
                    "hooks were taken off the pipeline after pabtune was attached to it, as loading a LoRA under sequential "
                    "offloading does; call pabtune.disable(pipeline), then enable the policy again"
                )
        self._session_of(call)

    def end_call(self, call: PipelineCall) -> None:
        """Finishes the session of a pipeline call (see `CallObserver`)."""
        session, _ = self._sessions.pop(call, (None, None))
        if session is not None:
            session.finish()

    def reset_bare_transformer(self) -> None:
        """Finishes the current run of a bare transformer; the next call begins another one."""
        if self.target.pipeline is None and None in self._sessions:
            self._sessions.pop(None)[0].finish()
            self._owner = LoopOwner()

    def check_thread(self, position: CallPosition, context: CacheContext | None) -> None:
        """Refuses a call that would go on with another thread's loop of a bare transformer (see `LoopOwner`)."""
        if self.target.pipeline is None:
            self._owner.check(position, None if context is None else context.num_inference_steps)

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
        self._hooked.clear()
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
            of_pipeline = (
                weakref.ref(pipeline) if pipeline is not None else lambda: None
            )  # what is kept of a run is not it
            locator = Locator(lambda: getattr(of_pipeline(), "scheduler", None))
            self._sessions[call] = self.listener.start(locator, call, is_compiled=self.is_compiled), locator
        return self._sessions[call][0]

    def _warn_of_others(self) -> None:
        """Warns once of a call that no pipeline of an observed class makes."""
        if not self._warned_of_others:
            self._warned_of_others = True
            warnings.warn(
                "a transformer was called, but not by the pipeline that pabtune is attached to, and computes everything; "
                "for another pipeline around it call pabtune.enable(…) on that too; for a loop of your own enable the policy "
                "on the transformer, and call it inside transformer.cache_context(…); a call of the pipeline in progress "
                "when the policy was enabled ends without it",
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
        roots = {}
        for name, transformer in self.target.transformers.items():
            # Before any hook, so that calls that begin meanwhile wait.
            roots[name] = RootHook(name, self)
            self._interceptors.append(CallInterceptor(roots[name], name, self.target.callers[name], transformer))
        modules = {name: dict(part.named_modules()) for name, part in self.target.transformers.items()}
        for index, site in enumerate(self.target.sites):
            if not site.path:
                continue  # whole calls: the interceptor's
            self._attach(modules[site.transformer][site.path], self.listener.site_hook(index), "site")
            for feeder in site.feeders:
                self._attach(modules[site.transformer][feeder], self.listener.feeder_hook(index), "feeder")
        for name, transformer in self.target.transformers.items():
            self._attach(transformer, roots[name], "root")
            transformer.__deepcopy__ = partial(copy_without_pabtune, transformer)  # type: ignore[assignment]
            vars(transformer)["__reduce_ex__"] = partial(refuse_pickling, name)
            invalidate_registries(transformer)
        if self.target.pipeline is not None:
            self._undo.append(observe(self.target.pipeline, self))

    def _attach(self, module: nn.Module, hook: Any, role: str) -> None:
        name = f"{self._prefix}_{role}"
        same = sum(each.startswith(name) for each in hook_names(module))  # stacks of several variants may share blocks
        if (
            role != "root"
        ):  # whose calls are intercepted; offloading of whole models takes its hook off after each video
            self._hooked.append(module)
        self._undo.append(attach(module, hook, f"{name}_{same}" if same else name))


def copy_without_pabtune(transformer: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """Deep copy of a transformer without pabtune's hooks, which would call the modules of the original."""
    with lock_of(transformer):
        return copy_without_hooks(transformer, HOOKS, memo, "__deepcopy__", "__reduce_ex__")


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


def awaits_branch(transformer: nn.Module) -> bool:
    """Whether the output of a transformer's latest call has no values yet: another process computes it (`ParallelHook`)."""
    hook = find_hook(transformer, PARALLEL_HOOK)
    return isinstance(hook, ParallelHook) and hook.awaits_branch


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
