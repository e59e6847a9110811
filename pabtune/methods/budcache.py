"""BudCache (https://arxiv.org/abs/2606.13496): the steps that compute, annealed on the final latents of real runs.

A mask has as many computed steps as the budget allows, its first ones fixed. Swapping one computed step with another makes a
new mask, whose run is held against the full run by the mean squared error of the final latents; simulated annealing decides
where to go on, and climbing ends it. What serves is the residual of all blocks together, of the last computed step.
"""

from collections.abc import Callable, Sequence
from math import exp
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pabtune.methods.held_runs import HeldRuns, cannot_hold, held_policy
from pabtune.methods.method import STEP_SHARES, Knob, Recordings
from pabtune.records.policies import Policy
from pabtune.runtime.targets import Target

FIXED_SHARE = 0.3
"""Of the steps that compute, at the beginning; they are not moved."""

ITERATIONS, FIRST_TEMPERATURE, FINAL_TEMPERATURE = 200, 0.1, 1e-4
"""Of the annealing."""

ROUNDS, NEIGHBOURS, NEAR = 5, 20, 3
"""Of the climbing behind it: rounds, masks that are tried in each, and how far half of their swaps reach."""


def temperatures(iterations: int) -> NDArray[np.float64]:
    """Temperature of each iteration of the annealing, falling by the same ratio."""
    return np.geomspace(FIRST_TEMPERATURE, FINAL_TEMPERATURE, iterations)


def accepts(change: float, temperature: float, draw: float) -> bool:
    """Whether the annealing goes on from a mask: a better one always, a worse one by chance.

    Args:
        change: loss of the mask, less that of the current one.
        temperature: of the iteration.
        draw: random, 0..1.
    """
    return change < 0 or draw < exp(-change / temperature)


def search_mask(loss: Callable[[tuple[int, ...]], float], steps: int, count: int, seed: int) -> tuple[int, ...]:
    """The steps that compute in the best mask that annealing, and climbing from its result, find.

    Args:
        loss: of the steps that compute; asked once for each mask.
        steps: of the run.
        count: steps that compute.
        seed: of all draws.
    """
    rng, fixed, known = np.random.default_rng(seed), max(int(FIXED_SHARE * count), 1), dict[tuple[int, ...], float]()
    free = list(range(fixed, steps))

    def value(computed: tuple[int, ...]) -> float:
        if computed not in known:
            known[computed] = loss(computed)
        return known[computed]

    def swapped(computed: tuple[int, ...], reach: int) -> tuple[int, ...]:
        pairs = [
            (old, new) for old in computed[fixed:] for new in free if new not in computed and abs(old - new) <= reach
        ]
        old, new = pairs[rng.integers(len(pairs))]
        return tuple(sorted({*computed} - {old} | {new}))

    current = (*range(fixed), *sorted(rng.choice(free, count - fixed, replace=False).tolist()))
    if not 0 < count - fixed < len(free):
        return current
    for temperature in temperatures(ITERATIONS):
        proposed = swapped(current, steps)
        if accepts(value(proposed) - value(current), float(temperature), rng.random()):
            current = proposed
    best = min(known, key=known.__getitem__)
    for _ in range(ROUNDS):
        near = [swapped(best, NEAR) for _ in range(NEIGHBOURS // 2)]
        far = [swapped(best, steps) for _ in range(NEIGHBOURS - NEIGHBOURS // 2)]
        best = min([best, *near, *far], key=value)
    return best


class BudCache:
    """BudCache, by its budget."""

    name = "budcache"
    knob = Knob(name="budget", low=0.05, high=1.0, says="share of the steps that compute")
    settings = STEP_SHARES
    needs: Literal["nothing", "recordings"] = "recordings"

    def misfit(self, model: Target) -> str | None:
        """No blocks, or latents that are not told."""
        return cannot_hold(model)

    def calibrate(self, recordings: Recordings, settings: Sequence[float]) -> Any:
        """The steps that compute, by their number; found on one prompt, as published."""
        steps = recordings.settings.steps
        runs = HeldRuns(recordings, recordings.batches[0][:1])
        counts = sorted({max(round(setting * steps), 1) for setting in settings})
        return {str(count): list(search_mask(runs.squared_error, steps, count, seed=0)) for count in counts}

    def at(self, setting: float, calibration: Any, steps: int) -> Policy:
        """The policy of a budget."""
        return held_policy(self.name, calibration[str(max(round(setting * steps), 1))], steps)
