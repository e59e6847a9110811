"""Which denoising step and which branch a call of a transformer belongs to. Nobody counts calls.

The step comes from diffusers' cache context where the pipeline gives it, else from the scheduler's own step index, else
from the timestep's place in the scheduler's timesteps. A run starts when the scheduler is given its timesteps.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.hooks.hooks import BaseState, CacheContext, StateManager
from torch import nn

from pabtune.planning.schedules import NoiseSchedule
from pabtune.records.errors import ModelError

UNNAMED_BRANCH = "all"
"""Branch of a call that the pipeline gives no name."""


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


class Clock:
    """Tells the moment of each call, for all transformers of one target.

    Args:
        scheduler: gives the pipeline's noise scheduler; None for a bare transformer.
    """

    def __init__(self, scheduler: Callable[[], Any]) -> None:
        self._scheduler = scheduler
        self._watched: Any = None
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
        self._start_run()
        if scheduler is None:
            return
        set_timesteps = scheduler.set_timesteps

        def started(*args: Any, **kwargs: Any) -> Any:
            self._start_run()
            return set_timesteps(*args, **kwargs)

        # Pipelines look at the signature of set_timesteps to see whether it takes sigmas.
        started.__signature__ = inspect.signature(set_timesteps)  # type: ignore[attr-defined]
        scheduler.set_timesteps = started

    def unwatch(self) -> None:
        """Leaves the scheduler as it was."""
        if self._watched is not None:
            vars(self._watched).pop("set_timesteps", None)
        self._watched = None

    def read(self, name: str, transformer: nn.Module, context: CacheContext | None, args: Any, kwargs: Any) -> Moment:
        """The moment of a call that is about to happen.

        Args:
            name: the transformer's name in the pipeline.
            transformer: the transformer.
            context: diffusers' context of the call.
            args: positional arguments of the call.
            kwargs: keyword arguments of the call.

        Raises:
            ModelError: nothing tells the step.
        """
        self.watch()
        branch = context.name if context is not None else UNNAMED_BRANCH
        if context is not None and context.step_index is not None:
            step = int(context.step_index)
        else:
            step = self._step_of_scheduler(transformer, args, kwargs)
        if context is not None and context.num_inference_steps is not None:
            self._steps_of_context = int(context.num_inference_steps)
        return Moment(step=step, branch=self._unique_branch(name, branch, step), run=self._run)

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

    def _step_of_scheduler(self, transformer: nn.Module, args: Any, kwargs: Any) -> int:
        scheduler = self._watched
        if scheduler is None:
            raise ModelError(
                "nothing tells the denoising step; call the transformer inside "
                "transformer.cache_context(branch, step_index=…, num_inference_steps=…)"
            )
        if hasattr(scheduler, "step_index"):
            index = scheduler.step_index
            return int(index) if index is not None else int(getattr(scheduler, "begin_index", None) or 0)
        bound = inspect.signature(type(transformer).forward).bind_partial(transformer, *args, **kwargs)
        timestep = torch.as_tensor(bound.arguments["timestep"]).flatten()[0]
        return int((scheduler.timesteps.to(timestep.device) - timestep).abs().argmin())


def noise_levels(scheduler: Any) -> tuple[float, ...]:
    """Noise level of every step, 1 = noise: sigma for flow matching, else timestep over training timesteps."""
    steps = len(scheduler.timesteps)
    training = scheduler.config.get("num_train_timesteps", 1000)
    sigmas = getattr(scheduler, "sigmas", None)
    if sigmas is not None and len(sigmas) >= steps and float(sigmas.max()) <= 1.0:
        return tuple(round(float(sigma), 6) for sigma in sigmas[:steps])
    return tuple(round(float(timestep) / training, 6) for timestep in scheduler.timesteps)
