"""Which denoising step and which branch a call of a transformer belongs to. Nobody counts calls.

The step comes from diffusers' cache context where the pipeline gives it, else from the scheduler's own step index, else
from the timestep's place in the scheduler's timesteps. A run starts when the scheduler is given its timesteps.
"""

import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.hooks.hooks import BaseState, CacheContext, StateManager
from torch import nn

from pabtune.planning.schedules import NoiseSchedule
from pabtune.records.errors import ModelError

UNNAMED_BRANCH = "all"
"""Branch of a call that the pipeline gives no name."""

TIMESTEP_TOLERANCE = 0.01
"""Of the largest timestep; half precision rounds timesteps by less."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """One call of a transformer: step, branch, and run (a token that is another one when a run starts)."""

    step: int
    branch: str
    run: object


class ContextReader(StateManager):
    """Receives the cache context that a pipeline sets, from diffusers."""

    def __init__(self) -> None:
        super().__init__(BaseState)

    def current(self) -> CacheContext | None:
        """The context of this call; None outside of any."""
        return self._context


class Watch:
    """Stands in for a method of an object and tells of its calls.

    A copy of the object gets its own plain method back: a pipeline's copies are not what is watched.
    """

    def __init__(self, owner: Any, method: str, notify: Callable[[], None]) -> None:
        self._owner, self._method, self._notify = owner, method, notify
        self._original = getattr(owner, method)
        # Pipelines look at the signature of set_timesteps to see whether it takes sigmas.
        self.__signature__ = inspect.signature(self._original)
        setattr(owner, method, self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Tells, then calls."""
        self._notify()
        return self._original(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Callable[..., Any]:
        """The method of the copied owner, which `copy` has noted by now."""
        copied = memo[id(self._owner)]
        return MethodType(getattr(type(copied), self._method), copied)

    def remove(self) -> None:
        """Leaves the object as it was."""
        vars(self._owner).pop(self._method, None)


class Clock:
    """Tells the moment of each call, for all transformers of one target.

    Args:
        scheduler: gives the pipeline's noise scheduler; None for a bare transformer.
        pipeline: whose calls are meant; None for a bare transformer.
    """

    def __init__(self, scheduler: Callable[[], Any], pipeline: DiffusionPipeline | None = None) -> None:
        self._scheduler = scheduler
        self._pipeline = pipeline
        self._watched: Any = None
        self._watch: Watch | None = None
        self._run = object()
        self._last: dict[tuple[str, str], int] = {}
        self._ordinal: dict[tuple[str, str], int] = {}
        self._steps_of_context: int | None = None
        self.watch()

    def watch(self) -> None:
        """Listens for the start of runs on the pipeline's scheduler, which may be another one than before."""
        scheduler = self._scheduler()
        if scheduler is self._watched:
            return
        self.unwatch()
        self._watched = scheduler
        if scheduler is None:
            return
        self._start_run()
        self._watch = Watch(scheduler, "set_timesteps", self._start_run)

    def unwatch(self) -> None:
        """Leaves the scheduler as it was."""
        if self._watch is not None:
            self._watch.remove()
        self._watch = self._watched = None

    def read(
        self, name: str, transformer: nn.Module, context: CacheContext | None, args: Any, kwargs: Any
    ) -> Moment | None:
        """The moment of a call that is about to happen.

        Args:
            name: the transformer's name in the pipeline.
            transformer: the transformer.
            context: diffusers' context of the call.
            args: positional arguments of the call.
            kwargs: keyword arguments of the call.

        Returns:
            None for a call by another pipeline, which shares the transformer.

        Raises:
            ModelError: nothing tells the step.
        """
        self.watch()
        if self._pipeline is not None and calling_pipeline() not in (None, self._pipeline):
            return None
        branch = context.name if context is not None else UNNAMED_BRANCH
        is_looked_up = False
        if context is not None and context.step_index is not None:
            step = int(context.step_index)
        else:
            step, is_looked_up = self._step_of_scheduler((name, branch), transformer, args, kwargs)
        if context is not None and context.num_inference_steps is not None:
            self._steps_of_context = int(context.num_inference_steps)
        # Timesteps that stand still for a named branch are several forwards of one step (asynchronous frames), no branch.
        if not (is_looked_up and context is not None):
            branch = self._unique_branch(name, branch, step)
        return Moment(step=step, branch=branch, run=self._run)

    def schedule(self) -> NoiseSchedule:
        """Steps and noise levels of the run that goes on.

        Raises:
            ModelError: neither a scheduler nor a cache context tells the number of steps.
        """
        if self._watched is not None and getattr(self._watched, "timesteps", None) is not None:
            levels = noise_levels(self._watched)
            return NoiseSchedule(steps=len(levels), sigmas=levels)
        if self._steps_of_context is None:
            raise ModelError(
                "nothing tells the number of denoising steps; call the transformer inside "
                "transformer.cache_context(branch, step_index=…, num_inference_steps=…)"
            )
        return NoiseSchedule(steps=self._steps_of_context)

    def _start_run(self) -> None:
        self._run = object()
        self._last.clear()
        self._ordinal.clear()

    def _unique_branch(self, name: str, branch: str, step: int) -> str:
        """The branch's name; a second call under the same name in the same step is a branch of its own."""
        key = (name, branch)
        last = self._last.get(key, -1)
        if step < last or (step == last and self._watched is None):
            # Without a scheduler to listen to, a step that comes again is the start of a new run.
            self._start_run()
            last = -1
        self._ordinal[key] = self._ordinal.get(key, 0) + 1 if step == last else 0
        self._last[key] = step
        ordinal = self._ordinal[key]
        return f"{branch}#{ordinal}" if ordinal else branch

    def _step_of_scheduler(
        self, key: tuple[str, str], transformer: nn.Module, args: Any, kwargs: Any
    ) -> tuple[int, bool]:
        """The step, and whether it comes from the timestep, which several forwards may share."""
        scheduler = self._watched
        if scheduler is None:
            raise ModelError(
                "nothing tells the denoising step; call the transformer inside "
                "transformer.cache_context(branch, step_index=…, num_inference_steps=…)"
            )
        index = getattr(scheduler, "step_index", None)
        if index is not None:
            return int(index), False
        begin = int(getattr(scheduler, "begin_index", None) or 0)
        if hasattr(scheduler, "step_index") and (key[1] == UNNAMED_BRANCH or key not in self._last):
            self._last.setdefault(key, -1)
            return begin, False
        bound = inspect.signature(type(transformer).forward).bind_partial(transformer, *args, **kwargs)
        if "timestep" not in bound.arguments:
            return begin, False
        step = _step_of_timestep(torch.as_tensor(bound.arguments["timestep"]), scheduler.timesteps)
        return (step, hasattr(scheduler, "step_index")) if step is not None else (begin, False)


def _step_of_timestep(timestep: torch.Tensor, timesteps: torch.Tensor) -> int | None:
    """The earliest step that one of the samples, frames or tokens is at; None if none is at any.

    Frames that are given stay at a small timestep of their own; some models take timesteps on another scale.
    """
    asked = timestep.float().flatten().unique()
    distance = (timesteps.to(asked)[:, None] - asked).abs()
    is_at = distance <= TIMESTEP_TOLERANCE * timesteps.abs().max()
    nearest = distance.argmin(dim=0)[is_at.any(dim=0)]
    return int(nearest.min()) if len(nearest) else None


def calling_pipeline() -> DiffusionPipeline | None:
    """The pipeline whose call goes on, the innermost; None where a transformer is called by hand."""
    return variables_of_call().get("self")


def variables_of_call() -> Mapping[str, Any]:
    """Local variables of the pipeline's call that goes on, the innermost; empty where a transformer is called by hand."""
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "__call__" and isinstance(frame.f_locals.get("self"), DiffusionPipeline):
            return frame.f_locals
        frame = frame.f_back  # type: ignore[assignment]
    return {}


def noise_levels(scheduler: Any) -> tuple[float, ...]:
    """Noise level of every step, 1 = noise.

    Sigma for flow matching; timestep over training timesteps for diffusion; for sigmas without a bound (EDM), the share of
    noise in what is denoised: sigma / (1 + sigma).
    """
    timesteps = torch.as_tensor(scheduler.timesteps).tolist()
    training = scheduler.config.get("num_train_timesteps", 1000)
    sigmas = getattr(scheduler, "sigmas", None)
    if sigmas is not None and len(sigmas) >= len(timesteps):
        known = torch.as_tensor(sigmas).tolist()[: len(timesteps)]
        if max(known) <= 1.0:
            return tuple(round(sigma, 6) for sigma in known)
        if not 2 < max(timesteps) <= training or min(timesteps) < 0:
            return tuple(round(sigma / (1 + sigma), 6) for sigma in known)
    return tuple(round(timestep / training, 6) for timestep in timesteps)
