"""Which pipeline call uses a noise scheduler: a second one, from another thread, is refused at once.

A scheduler holds the timesteps and the position of one denoising loop, and a pipeline keeps settings of its call. Two threads
that call one pipeline, or two pipelines around one scheduler, would each continue the other's loop.

Knows pipelines and threads; knows nothing of policies or hooks.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from diffusers import DiffusionPipeline

from pabtune.records.errors import ModelError


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerUse:
    """A call in progress.

    Attributes:
        thread: identifier of the calling thread.
        is_observed: whether pabtune is attached to the pipeline.
    """

    thread: int
    is_observed: bool


class SchedulerUses:
    """The calls in progress, by their scheduler."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._uses: dict[int, SchedulerUse] = {}

    @contextmanager
    def holding(self, pipeline: DiffusionPipeline, *, is_observed: bool) -> Iterator[None]:
        """Marks the pipeline's scheduler as in use inside a `with` block. Calls inside a call of the same thread are its own.

        Args:
            pipeline: that is called.
            is_observed: whether pabtune is attached to it; where that is so of neither call, nothing is refused.

        Raises:
            ModelError: another thread uses the scheduler.
        """
        scheduler = getattr(pipeline, "scheduler", None)
        key = id(pipeline if scheduler is None else scheduler)
        use = SchedulerUse(thread=threading.get_ident(), is_observed=is_observed)
        with self._lock:
            other = self._uses.get(key)
            if other is not None and other.thread != use.thread and (other.is_observed or is_observed):
                raise ModelError(
                    f"another thread is inside a call of this {type(pipeline).__name__}, or of one with the same scheduler, "
                    "which holds the state of one denoising loop; call one after the other, or give each request a shallow "
                    "copy with a scheduler of its own: own = copy.copy(pipeline); own.scheduler = "
                    "copy.deepcopy(pipeline.scheduler)"
                )
            if other is None:
                self._uses[key] = use
        try:
            yield
        finally:
            if other is None:
                with self._lock:
                    del self._uses[key]
