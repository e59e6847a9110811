"""Which pipeline's call goes on in this thread, and when it begins and ends.

The class of an observed pipeline gets a `__call__` that notes the call for as long as anybody observes; it is the one place
that every pipeline of diffusers goes through, and needs no look at anybody's frames. The observers of a pipeline are an
attribute of it, so that a shallow copy (one per request, as servers make) has them too; a deep copy has none.

Knows pipelines and their calls; knows nothing of transformers, steps or hooks.
"""

import functools
import inspect
import threading
import weakref
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol

from diffusers import DiffusionPipeline

OBSERVERS = "_pabtune_observers"
"""Attribute of an observed pipeline."""

_CLASSES = threading.Lock()
"""Held while the call of a class changes."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PipelineCall:
    """One call of a pipeline. Two calls are never equal.

    Attributes:
        pipeline: the pipeline that is called.
        arguments: of the call, by name, without defaults.
    """

    pipeline: DiffusionPipeline
    arguments: Mapping[str, Any]


_CURRENT: ContextVar[PipelineCall | None] = ContextVar("pabtune_pipeline_call", default=None)


class CallObserver(Protocol):
    """Is told of the calls of a pipeline, in the thread that makes them."""

    def begin_call(self, call: PipelineCall) -> None:
        """A call begins; an exception stops it."""

    def end_call(self, call: PipelineCall) -> None:
        """A call is over, also after an exception. It may have begun before it was observed."""


class Observers(tuple[CallObserver, ...]):
    """The observers of a pipeline; of a deep copy of it, nobody."""

    __slots__ = ()

    def __deepcopy__(self, memo: dict[int, Any]) -> "Observers":
        return Observers()

    def __reduce__(self) -> tuple[type["Observers"], tuple[()]]:
        return Observers, ()


def current_call() -> PipelineCall | None:
    """The innermost call of an observed class of pipelines that goes on in this thread; None outside of any."""
    return _CURRENT.get()


def observers_of(pipeline: DiffusionPipeline) -> Observers:
    """Who observes a pipeline."""
    return vars(pipeline).get(OBSERVERS, Observers())


def observe(pipeline: DiffusionPipeline, observer: CallObserver) -> Callable[[], None]:
    """Lets an observer know of a pipeline's calls, and of those of its shallow copies from now on.

    Returns:
        A function that ends it for this pipeline; copies made meanwhile still have the observer.
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
    """Makes calls of a class known as long as any user is alive and has not released it."""
    with _CLASSES:
        call = vars(pipeline_class).get("__call__")
        if not hasattr(call, "pabtune_users"):
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


def _noting(original: Callable[..., Any], replaced: Callable[..., Any] | None) -> Any:
    """A pipeline's `__call__` that notes the call for as long as it goes on."""
    signature = inspect.signature(original)

    @functools.wraps(original)
    def call_and_note(self: DiffusionPipeline, *args: Any, **kwargs: Any) -> Any:
        running = _CURRENT.get()
        if running is not None and running.pipeline is self:
            return original(self, *args, **kwargs)  # a class calls that of its parent
        try:
            arguments = dict(signature.bind(self, *args, **kwargs).arguments)
        except TypeError:
            return original(self, *args, **kwargs)  # which says what is wrong
        call = PipelineCall(pipeline=self, arguments=arguments)
        token = _CURRENT.set(call)
        try:
            for observer in observers_of(self):
                observer.begin_call(call)
            return original(self, *args, **kwargs)
        finally:
            for observer in observers_of(self):
                observer.end_call(call)
            _CURRENT.reset(token)

    call_and_note.pabtune_users = weakref.WeakSet()  # type: ignore[attr-defined]
    call_and_note.pabtune_replaced = replaced  # type: ignore[attr-defined]
    return call_and_note
