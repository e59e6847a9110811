"""The calls of a transformer, one after the other: each goes through the hooks that are on the transformer by then.

Knows a call, the session that it belongs to, and the lock around it; knows nothing of how hooks get on or off.
"""

import threading
import weakref
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from pabtune.libraries.diffusers_internals import CacheContextReader, StatefulHook
from pabtune.libraries.torch_internals import call_module, compiled_call, set_compiled_call
from pabtune.records.errors import ModelError
from pabtune.runtime.listeners import Substitute

if TYPE_CHECKING:
    from pabtune.runtime.interception import Interception


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
            try:
                return self._call(args, kwargs)
            finally:
                interception.listener.rest(self._name)
        locator, context = interception.locator(), self._hook.context.current()
        position = locator.locate(self._name, self._transformer, context, args, kwargs)
        interception.check_thread(position, context)
        locator.advance(position, context)
        first = next((value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)), None)
        if first is None:
            raise ModelError(
                f"{self._name} was called without a tensor among its arguments; pass the latents by themselves"
            )
        try:
            instead = session.begin(position, first)
            if isinstance(instead, Substitute):
                return instead.output
            if instead is not None:
                args, kwargs = instead.arguments(args, kwargs)
            output = self._call(args, kwargs)
            if instead is not None:
                output = instead.complete(output)
            if interception.is_attached:
                session.end(position, output)
            else:  # detached in the middle of the call: nothing is to be kept
                session.abort(position)
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
