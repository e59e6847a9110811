"""Fewer denoising steps: what a user does without any method, in the pipeline's own spacing and in the best one.

The best spacing takes so many noise levels out of the full run's, by exact dynamic programming over the error that is made by
going from one level straight to a later one, in the outputs of recorded full runs. With Euler's method over flow matching that
is the same as holding the output in the steps between, number by number; so it runs as a policy that holds whole calls, and no
pipeline need take `sigmas`. With other schedulers the two differ.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pabtune.methods.method import STEP_SHARES, Knob, Recordings
from pabtune.records.policies import Policy
from pabtune.records.rules import Rule
from pabtune.runtime.targets import Target
from pabtune.tuning.trajectories import Trajectories

EULER = "FlowMatchEulerDiscreteScheduler"
"""The scheduler for which leaving out noise levels is the same as holding outputs."""


class FewerSteps:
    """A run of fewer steps, as the pipeline spaces them."""

    name = "fewer-steps"
    knob = Knob(name="steps", low=0.05, high=1.0, says="share of the steps that are made")
    settings = (0.8, *STEP_SHARES)
    needs: Literal["nothing", "recordings"] = "nothing"

    def misfit(self, model: Target) -> str | None:
        """None: every pipeline makes fewer steps."""
        return None

    def calibrate(self, recordings: Recordings, settings: Sequence[float]) -> Any:
        """Nothing."""
        return None

    def at(self, setting: float, calibration: Any, steps: int) -> Policy:
        """The policy of a share."""
        count = max(round(setting * steps), 1)
        return Policy(name=f"steps:{count}", steps=count)


class BestSpacing:
    """A run of fewer steps over the best of the full run's noise levels."""

    name = "best-spacing"
    knob = FewerSteps.knob
    settings = (0.8, *STEP_SHARES)
    needs: Literal["nothing", "recordings"] = "recordings"

    def misfit(self, model: Target) -> str | None:
        """Whether the scheduler is another than Euler's."""
        scheduler = type(model.pipeline.scheduler).__name__ if model.pipeline is not None else "no scheduler"
        if scheduler == EULER:
            return None
        return f"its scheduler is {scheduler}, with which leaving out noise levels is not the same as holding outputs"

    def calibrate(self, recordings: Recordings, settings: Sequence[float]) -> Any:
        """The steps from whose noise levels a step is made, by their number."""
        steps = recordings.settings.steps
        errors = sum(leap_errors(run) * len(run.prompts) for run in recordings.trajectories)
        counts = sorted({max(round(setting * steps), 1) for setting in settings})
        return {str(count): list(shortest_path(errors, count)) for count in counts}

    def at(self, setting: float, calibration: Any, steps: int) -> Policy:
        """The policy of a share."""
        made = calibration[str(max(round(setting * steps), 1))]
        rules = (Rule(kind="transformer", compute=tuple(made)),) if len(made) < steps else ()
        return Policy(name=f"best-spacing:{len(made)}", rules=rules)


def leap_errors(run: Trajectories) -> NDArray[np.float64]:
    """Error of the latents when one step goes from a noise level straight to a later one, (steps, steps + 1).

    Mean squared; the last column is the end of the run. Infinite where the second level is not behind the first.

    Args:
        run: full runs of one batch.
    """
    steps = len(run.outputs)
    errors = np.full((steps, steps + 1), np.inf)
    for first in range(steps):
        missing = run.outputs[first] * 0.0
        for after in range(first + 1, steps + 1):
            missing = missing + run.rates[after - 1] * (run.outputs[first] - run.outputs[after - 1])
            errors[first, after] = float(missing.square().mean())
    return errors


def shortest_path(errors: NDArray[np.float64], count: int) -> tuple[int, ...]:
    """The steps of the path from the first step to the end with the smallest summed error.

    Args:
        errors: (steps, steps + 1), of going from a step straight to a later one, or to the end.
        count: number of steps.
    """
    steps = len(errors)
    best: dict[int, tuple[float, tuple[int, ...]]] = {0: (0.0, (0,))}
    for _ in range(count - 1):
        longer: dict[int, tuple[float, tuple[int, ...]]] = {}
        for step, (error, path) in best.items():
            for after in range(step + 1, steps):
                candidate = (error + float(errors[step, after]), (*path, after))
                longer[after] = min(longer.get(after, candidate), candidate)
        best = longer
    return min((error + float(errors[step, steps]), path) for step, (error, path) in best.items())[1]
