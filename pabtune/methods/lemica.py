"""LeMiCa (https://arxiv.org/abs/2511.00090): the path through the steps whose worst segment harms the video least.

For each segment, from a step that computes to the next one that does, a run leaves out what is between, and its final latents
are held against those of the full run. A path of so many computed steps is chosen whose segment errors, the largest first, are
smallest. What serves is the residual of all blocks together, of the last computed step.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pabtune.methods.held_runs import HeldRuns, cannot_hold, held_policy
from pabtune.methods.method import STEP_SHARES, Knob, Recordings
from pabtune.records.errors import PolicyError
from pabtune.records.policies import Policy
from pabtune.runtime.targets import Target

LONGEST = 0.3
"""Of the steps, the longest segment that is measured."""

PROMPTS = 2
"""Of the first batch; the paper found 1 to 20 to do."""


class LeMiCa:
    """LeMiCa, by its budget."""

    name = "lemica"
    knob = Knob(name="budget", low=0.05, high=1.0, says="share of the steps that compute")
    settings = STEP_SHARES
    needs: Literal["nothing", "recordings"] = "recordings"

    def misfit(self, model: Target) -> str | None:
        """No blocks, or latents that are not told."""
        return cannot_hold(model)

    def calibrate(self, recordings: Recordings, settings: Sequence[float]) -> Any:
        """Error of the final latents for each segment, relative L1; None where it is longer than what is measured."""
        steps = recordings.settings.steps
        runs = HeldRuns(recordings, recordings.batches[0][:PROMPTS])
        errors: list[list[float | None]] = [[None] * steps for _ in range(steps)]
        for first in range(steps - 1):
            errors[first][first + 1] = 0.0
            for after in range(first + 2, min(first + max(round(LONGEST * steps), 2), steps - 1) + 1):
                computed = (*range(first + 1), *range(after, steps))
                errors[first][after] = runs.relative_error(computed)
        return errors

    def at(self, setting: float, calibration: Any, steps: int) -> Policy:
        """The policy of a budget."""
        errors = np.array([[np.inf if each is None else each for each in row] for row in calibration])
        return held_policy(self.name, minimax_path(errors, max(round(setting * steps), 2)), steps)


def minimax_path(errors: NDArray[np.float64], count: int) -> tuple[int, ...]:
    """The steps that compute: the path from the first step to the last whose worst segment is best.

    Between paths with equal worst segments the second worst decides, and so on: the errors of a path, largest first, are
    compared as words in a dictionary are. A segment that is added to two paths does not change which of them is better, so
    that the best path to a step goes on from a best path to another one.

    Args:
        errors: (steps, steps), error of the video if the output of the one step serves until the other computes; infinite
            where that is not known.
        count: number of steps that compute, the first and the last among them.

    Raises:
        PolicyError: no path has so few steps.
    """
    steps = len(errors)
    best: dict[int, tuple[tuple[float, ...], tuple[int, ...]]] = {0: ((), (0,))}
    for _ in range(count - 1):
        longer: dict[int, tuple[tuple[float, ...], tuple[int, ...]]] = {}
        for step, (segments, path) in best.items():
            for after in range(step + 1, steps):
                if np.isfinite(errors[step, after]):
                    worst_first = tuple(sorted((*segments, float(errors[step, after])), reverse=True))
                    candidate = (worst_first, (*path, after))
                    longer[after] = min(longer.get(after, candidate), candidate)
        best = longer
    if steps - 1 not in best:
        raise PolicyError(
            f"no schedule of {count} computed steps is made of segments that were measured; allow more steps"
        )
    return best[steps - 1][1]
