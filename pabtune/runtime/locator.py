"""Position of a transformer call in a run: its denoising step and guidance branch. Calls of sites are never counted.

The step comes from diffusers' cache context if the pipeline sets it, else from the scheduler's step index, else from its
begin index, else from the index of the timestep among the scheduler's timesteps. A denoising loop begins when the scheduler
has other timesteps than before.

`locate` changes nothing; `advance` updates the state after a call was located.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.hooks.hooks import CacheContext
from torch import nn

from pabtune.planning.schedules import NoiseSchedule
from pabtune.records.errors import ModelError
from pabtune.runtime.noise_levels import noise_levels, step_of_timestep

UNNAMED_BRANCH = "all"
"""Branch of a call to which the pipeline gives no name."""

MOST_CALLS = 16
"""Calls of one branch in a step; after more the step stands still because nothing tells it, not because there are branches."""

NO_STEP = (
    "nothing tells the {}; call the transformer inside "
    "transformer.cache_context(branch, step_index=…, num_inference_steps=…)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CallPosition:
    """Position of a transformer call in a run.

    Attributes:
        transformer: name of the transformer in the pipeline.
        step: index of the denoising step.
        branch: guidance branch; a second unnamed call in one step is a branch of its own.
        ordinal: number of earlier calls of this transformer in this step.
        is_new_loop: whether the call is the first of a denoising loop.
        label: name that the pipeline gives the branch.
        repeat: number of earlier calls with this label in this step.
    """

    transformer: str
    step: int
    branch: str
    ordinal: int
    is_new_loop: bool
    label: str
    repeat: int


class Locator:
    """Locates the transformer calls of one pipeline call, or of a bare transformer.

    Args:
        scheduler: function that returns the pipeline's noise scheduler, which may be replaced during the call; it returns
            None for a bare transformer.
    """

    def __init__(self, scheduler: Callable[[], Any]) -> None:
        self._scheduler = scheduler
        self._timesteps: Any = None
        self._steps_of_context: int | None = None
        self._is_fresh = True
        self._last: dict[tuple[str, str], tuple[int, int]] = {}
        self._calls_of_step: dict[str, tuple[int, int]] = {}

    def locate(
        self, transformer: str, module: nn.Module, context: CacheContext | None, args: Any, kwargs: Any
    ) -> CallPosition:
        """Position of the transformer call that is about to happen.

        Args:
            transformer: name of the transformer in the pipeline.
            module: the transformer.
            context: diffusers' cache context of the call; None outside any.
            args: positional arguments of the call.
            kwargs: keyword arguments of the call.

        Raises:
            ModelError: the step cannot be derived from the context, the scheduler or the timestep.
        """
        scheduler = self._scheduler()
        label = context.name if context is not None else UNNAMED_BRANCH
        key = (transformer, label)
        is_new_loop = self._is_fresh or (scheduler is not None and scheduler.timesteps is not self._timesteps)
        is_new_loop |= scheduler is None and _steps_of(context) not in (None, self._steps_of_context)
        last, repeat = (-1, 0) if is_new_loop else self._last.get(key, (-1, 0))
        is_from_timestep = False
        if context is not None and context.step_index is not None:
            step = int(context.step_index)
        else:
            step, is_from_timestep = _step_of_scheduler(scheduler, module, label, last, args, kwargs)
        if step < last or (step == last and scheduler is None):
            # Without a scheduler, a repeated step is the start of a new loop.
            is_new_loop, last = True, -1
        # A named branch with an unchanged timestep has several calls per step (asynchronous frames), not a second branch.
        is_repeated = step == last and not (is_from_timestep and context is not None)
        repeat = repeat + 1 if is_repeated else 0
        if repeat >= MOST_CALLS:
            raise ModelError(NO_STEP.format("denoising step"))
        step_of_calls, calls = (-1, 0) if is_new_loop else self._calls_of_step.get(transformer, (-1, 0))
        return CallPosition(
            transformer=transformer,
            step=step,
            branch=f"{label}#{repeat}" if repeat else label,
            ordinal=calls if step == step_of_calls else 0,
            is_new_loop=is_new_loop,
            label=label,
            repeat=repeat,
        )

    def advance(self, position: CallPosition, context: CacheContext | None) -> None:
        """Updates the state after a call was located; later calls are located relative to it.

        Args:
            position: position of the call.
            context: diffusers' cache context of the call; None outside any.
        """
        if position.is_new_loop:
            self._last.clear()
            self._calls_of_step.clear()
        self._is_fresh = False
        scheduler = self._scheduler()
        self._timesteps = scheduler.timesteps if scheduler is not None else None
        self._steps_of_context = _steps_of(context) or self._steps_of_context
        self._last[position.transformer, position.label] = (position.step, position.repeat)
        self._calls_of_step[position.transformer] = (position.step, position.ordinal + 1)

    def schedule(self) -> NoiseSchedule:
        """Steps and noise levels of the current denoising loop.

        Raises:
            ModelError: neither a scheduler nor a cache context gives the number of steps.
        """
        scheduler = self._scheduler()
        if scheduler is not None and getattr(scheduler, "timesteps", None) is not None:
            levels = noise_levels(scheduler)
            return NoiseSchedule(steps=len(levels), sigmas=levels)
        if self._steps_of_context is None:
            raise ModelError(NO_STEP.format("number of denoising steps"))
        return NoiseSchedule(steps=self._steps_of_context)


def _steps_of(context: CacheContext | None) -> int | None:
    """Number of denoising steps that a cache context tells."""
    steps = context.num_inference_steps if context is not None else None
    return int(steps) if steps is not None else None


def _step_of_scheduler(
    scheduler: Any, module: nn.Module, label: str, last: int, args: Any, kwargs: Any
) -> tuple[int, bool]:
    """The denoising step by the scheduler, and whether it was derived from the timestep, which several calls may share.

    Args:
        scheduler: noise scheduler of the pipeline; None for a bare transformer.
        module: the transformer.
        label: name of the branch.
        last: step of the last call of this branch; -1 before the first.
        args: positional arguments of the call.
        kwargs: keyword arguments of the call.
    """
    if scheduler is None:
        raise ModelError(NO_STEP.format("denoising step"))
    index = getattr(scheduler, "step_index", None)
    if index is not None:
        return int(index), False
    has_index = hasattr(scheduler, "step_index")
    begin = getattr(scheduler, "begin_index", None)
    if has_index and label == UNNAMED_BRANCH and last >= 0:
        return last, False  # the scheduler has not stepped yet: another branch of the first step
    if has_index and begin is not None and last < 0:
        return int(begin), False
    bound = inspect.signature(type(module).forward).bind_partial(module, *args, **kwargs)
    step = None
    if "timestep" in bound.arguments:
        step = step_of_timestep(torch.as_tensor(bound.arguments["timestep"]), scheduler.timesteps)
    if step is None:
        return int(begin or 0), False
    # In the first step, calls are distinguished by their branch; only later does the timestep identify the step.
    return step, has_index and last >= 0
