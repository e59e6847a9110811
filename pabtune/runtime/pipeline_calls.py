"""The pipeline call in progress in each thread, and observers of its beginning and end.

While a pipeline is observed, the `__call__` of its class is wrapped: it is the one place that every diffusers pipeline goes
through, and no Python frames need to be inspected. The observers are an attribute of the pipeline, so that a shallow copy
(as servers make one per request) has them too; a deep copy has none.

Knows pipelines and their calls; knows nothing of transformers, steps or hooks.
"""

import functools
import inspect
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol

from diffusers import DiffusionPipeline

from pabtune.runtime.scheduler_uses import SchedulerUses

OBSERVERS = "_pabtune_observers"
"""Attribute of a pipeline that holds its observers."""

_CLASSES = threading.Lock()
"""Lock for changing the `__call__` of a class."""

_OWN: weakref.WeakSet[Any] = weakref.WeakSet()
"""Wrappers of `__call__` that `_noting` made."""

_USES = SchedulerUses()
"""Calls in progress of observed classes, over all threads."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PipelineCall:
    """One call of a pipeline. Two calls are never equal.

    Attributes:
        pipeline: the pipeline.
        arguments: arguments of the call by name, without defaults.
    """

    pipeline: DiffusionPipeline
    arguments: Mapping[str, Any]


_CURRENT: ContextVar[PipelineCall | None] = ContextVar("pabtune_pipeline_call", default=None)


class CallObserver(Protocol):
    """Receives the beginning and end of a pipeline's calls, in the calling thread."""

    def begin_call(self, call: PipelineCall) -> None:
        """Called when a pipeline call begins; an exception aborts the call."""

    def end_call(self, call: PipelineCall) -> None:
        """Called when a pipeline call ends, also by an exception; it may have begun before it was observed."""


class Observers(tuple[CallObserver, ...]):
    """The observers of a pipeline; a deep copy is empty."""

    __slots__ = ()

    def __deepcopy__(self, memo: dict[int, Any]) -> "Observers":
        return Observers()

    def __reduce__(self) -> tuple[type["Observers"], tuple[()]]:
        return Observers, ()


def current_call() -> PipelineCall | None:
    """The innermost pipeline call in progress in this thread, of an observed class; None outside any."""
    return _CURRENT.get()


def asked_steps() -> int | None:
    """`num_inference_steps` of the pipeline's call that is running here; None outside of one, or where it is not given."""
    call = current_call()
    value = None if call is None else call.arguments.get("num_inference_steps")
    return value if isinstance(value, int) else None


def observers_of(pipeline: DiffusionPipeline) -> Observers:
    """The observers of a pipeline."""
    return vars(pipeline).get(OBSERVERS, Observers())


def observe(pipeline: DiffusionPipeline, observer: CallObserver) -> Callable[[], None]:
    """Adds an observer to a pipeline, and to shallow copies made of it from now on.

    Returns:
        A function that removes the observer from this pipeline; existing copies keep it.
    """
    release = _watch_class(type(pipeline), observer)
    vars(pipeline)[OBSERVERS] = Observers((*observers_of(pipeline), observer))

    def end() -> None:
        rest = Observers(each for each in observers_of(pipeline) if each is not observer)
        if rest:
            vars(pipeline)[OBSERVERS] = rest
        else:
            vars(pipeline).pop(OBSERVERS, None)
        release()

    return end


def _watch_class(pipeline_class: type, user: object) -> Callable[[], None]:
    """Wraps the `__call__` of a class while any of its users is alive and has not released it."""
    with _CLASSES:
        call = vars(pipeline_class).get("__call__")
        if call not in _OWN:  # another wrapper around it has its attributes too
            pipeline_class.__call__ = call = _noting(pipeline_class.__call__, call)  # type: ignore[operator]
        call.pabtune_users.add(user)

    def release() -> None:
        with _CLASSES:
            call.pabtune_users.discard(user)
            if call.pabtune_users or vars(pipeline_class).get("__call__") is not call:
                return
            if call.pabtune_replaced is None:
                del pipeline_class.__call__  # it inherits its call
            else:
                pipeline_class.__call__ = call.pabtune_replaced  # type: ignore[operator]

    return release


def _end(call: PipelineCall, observers: Sequence[CallObserver]) -> None:
    """Tells all observers that a call is over, whatever one of them raises."""
    with ExitStack() as stack:
        for observer in reversed(observers):
            stack.callback(observer.end_call, call)


def _noting(original: Callable[..., Any], replaced: Callable[..., Any] | None) -> Any:
    """A wrapper of a pipeline's `__call__` that makes it the current call and notifies the observers."""
    signature = inspect.signature(original)

    @functools.wraps(original)
    def call_and_note(self: DiffusionPipeline, *args: Any, **kwargs: Any) -> Any:
        running = _CURRENT.get()
        if running is not None and running.pipeline is self:
            return original(self, *args, **kwargs)  # a call of the parent class's `__call__`
        try:
            arguments = dict(signature.bind(self, *args, **kwargs).arguments)
        except TypeError:
            return original(self, *args, **kwargs)  # raises the TypeError for the caller
        call = PipelineCall(pipeline=self, arguments=arguments)
        with _USES.holding(self, is_observed=bool(observers_of(self))):
            token = _CURRENT.set(call)
            try:
                for observer in observers_of(self):
                    observer.begin_call(call)
                return original(self, *args, **kwargs)
            finally:
                try:
                    _end(call, observers_of(self))
                finally:
                    _CURRENT.reset(token)

    _OWN.add(call_and_note)
    call_and_note.pabtune_users = weakref.WeakSet()  # type: ignore[attr-defined]
    call_and_note.pabtune_replaced = replaced  # type: ignore[attr-defined]
    return call_and_note
