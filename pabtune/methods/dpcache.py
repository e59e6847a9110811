"""DPCache (https://arxiv.org/abs/2602.22654): the steps that compute by exact dynamic programming, forecasts in between.

From one full run the error of a forecast is known for every pair of computed steps and every step behind them. The cheapest
path of so many computed steps is found exactly; in the other steps the output is forecast from the last two computed ones.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pabtune.methods.method import STEP_SHARES, Knob, Recordings
from pabtune.records.errors import ModelError
from pabtune.records.policies import Policy
from pabtune.records.rules import Rule
from pabtune.runtime.targets import Target

FIRST = 3
"""Steps at the beginning that compute in any case, M in the paper."""


def path_costs(outputs: Sequence[Tensor]) -> NDArray[np.float64]:
    """Errors of forecasts along all paths, (steps, steps, steps + 1): the paper's path-aware cost tensor.

    Entry (i, j, k) is the summed mean absolute error, over the steps behind j up to k, of the line through the outputs of i
    and j, where j computes after i, and k after j. The last k is the end of the run, behind all steps. Infinite where the
    three do not rise.

    Args:
        outputs: of each step of a full run.
    """
    steps = len(outputs)
    costs = np.full((steps, steps, steps + 1), np.inf)
    for first in range(steps - 1):
        for second in range(first + 1, steps):
            slope = (outputs[second] - outputs[first]) / (second - first)
            total = 0.0
            for step in range(second + 1, steps):
                forecast = outputs[second] + slope * (step - second)
                total += float((forecast - outputs[step]).abs().mean())
                costs[first, second, step] = total
            costs[first, second, steps] = total
    return costs


def best_schedule(costs: NDArray[np.float64], count: int) -> tuple[int, ...]:
    """The steps that compute in the cheapest path of so many steps, exactly, by dynamic programming over pairs of steps.

    Args:
        costs: (steps, steps, steps + 1), see `path_costs`.
        count: number of steps that compute, the first `FIRST` among them.
    """
    steps, last_two = costs.shape[0], (FIRST - 2, FIRST - 1)
    best: dict[tuple[int, int], tuple[float, tuple[int, ...]]] = {last_two: (0.0, tuple(range(FIRST)))}
    for _ in range(count - FIRST):
        longer: dict[tuple[int, int], tuple[float, tuple[int, ...]]] = {}
        for (first, second), (cost, path) in best.items():
            for third in range(second + 1, steps):
                candidate = (cost + float(costs[first, second, third]), (*path, third))
                longer[second, third] = min(longer.get((second, third), candidate), candidate)
        best = longer
    ended = [(cost + float(costs[first, second, steps]), path) for (first, second), (cost, path) in best.items()]
    return min(ended)[1]


def taylor_factors(computed: Sequence[int], steps: int) -> tuple[tuple[float, ...], ...]:
    """Factors of a `scaled` payload that forecast over the index of the step, along the line through the last two outputs.

    Args:
        computed: the steps that compute.
        steps: of the run.
    """
    factors: list[tuple[float, ...]] = []
    history: list[int] = []
    for step in range(steps):
        if step in computed:
            history.append(step)
            factors.append(())
        else:
            factors.append(((step - history[-1]) / (history[-1] - history[-2]),))
    return tuple(factors)


class DPCache:
    """DPCache, by its budget."""

    name = "dpcache"
    knob = Knob(name="budget", low=0.05, high=1.0, says="share of the steps that compute")
    settings = STEP_SHARES
    needs: Literal["nothing", "recordings"] = "recordings"

    def misfit(self, model: Target) -> str | None:
        """None: every model has whole calls."""
        return None

    def calibrate(self, recordings: Recordings, settings: Sequence[float]) -> Any:
        """The steps that compute, by their number.

        Raises:
            ModelError: all steps of the run would compute in any case.
        """
        steps = recordings.settings.steps
        if steps <= FIRST:
            raise ModelError(f"its first {FIRST} steps compute: it is for {FIRST + 1} steps and more")
        costs = sum(path_costs(run.outputs) * len(run.prompts) for run in recordings.trajectories)
        counts = sorted({max(round(setting * steps), FIRST) for setting in settings})
        return {str(count): list(best_schedule(costs, count)) for count in counts}

    def at(self, setting: float, calibration: Any, steps: int) -> Policy:
        """The policy of a budget."""
        computed = calibration[str(max(round(setting * steps), FIRST))]
        rules = ()
        if len(computed) < steps:
            factors = taylor_factors(computed, steps)
            rules = (Rule(kind="transformer", compute=tuple(computed), payload="scaled", factors=factors),)
        return Policy(name=f"dpcache:{len(computed)}", rules=rules)
