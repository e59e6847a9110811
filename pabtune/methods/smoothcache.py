"""SmoothCache (https://arxiv.org/abs/2411.10510): a schedule for each kind of module, from how fast its outputs change.

One full run measures the relative L1 difference between outputs of steps up to three apart, as a mean over the layers of a
kind. A greedy scan leaves out as many steps as stay within a threshold, α; what was put out last serves in them.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pabtune.methods.method import Knob, Recordings
from pabtune.records.policies import Policy
from pabtune.records.rules import Rule
from pabtune.runtime.listeners import Forward, Measurement, tensors_of
from pabtune.runtime.locator import CallPosition
from pabtune.runtime.recorder import record
from pabtune.runtime.targets import Target
from pabtune.tuning.generation import generate

LOOKAHEAD = 3
"""Steps that are left out at most in a row, as in the published calibration."""


class OutputChanges(Measurement):
    """Measurement of the relative L1 difference between outputs of a site in steps up to `LOOKAHEAD` apart.

    Args:
        sites: number of sites.
        steps: of the run.

    Attributes:
        sums: (sites, lookaheads, steps), summed over calls: between the output of a step and that of `lookahead + 1` later.
        counts: the same shape, number of calls.
        bytes: most bytes of outputs held at once.
    """

    def __init__(self, sites: int, steps: int) -> None:
        self.sums = np.zeros((sites, LOOKAHEAD, steps))
        self.counts = np.zeros((sites, LOOKAHEAD, steps))
        self.bytes = 0
        self._history: dict[tuple[str, int], dict[int, Tensor]] = {}
        self._position: CallPosition | None = None

    def begin(self, position: CallPosition, sample: Tensor) -> None:
        """Notes the step and branch (see `Session`)."""
        super().begin(position, sample)
        self._position = position
        if position.is_new_loop:
            self._history.clear()

    def site(self, index: int, forward: Forward, args: Any, kwargs: Any) -> Any:
        """Computes, and compares with the outputs of the last steps (see `Measurement`)."""
        output = forward(*args, **kwargs)
        if self._position is None:
            return output
        step, tensor = self._position.step, tensors_of(output)[0].detach().float()
        history = self._history.setdefault((self._position.branch, index), {})
        for back in range(1, LOOKAHEAD + 1):
            before = history.get(step - back)
            if before is not None and before.shape == tensor.shape:
                self.sums[index, back - 1, step - back] += float((tensor - before).abs().sum() / tensor.abs().sum())
                self.counts[index, back - 1, step - back] += 1
        history[step] = tensor.clone()
        history.pop(step - LOOKAHEAD, None)
        self.bytes = max(self.bytes, sum(each.nbytes for kept in self._history.values() for each in kept.values()))
        return output

    def feeder(self, index: int, forward: Forward, args: Any, kwargs: Any) -> Any:
        """Computes (see `Measurement`)."""
        return forward(*args, **kwargs)

    def finish(self) -> None:
        """Frees the outputs (see `Session`)."""
        self._history.clear()


class SmoothCache:
    """SmoothCache, by its threshold."""

    name = "smoothcache"
    knob = Knob(name="threshold", low=0.0, high=10.0, says="α: largest relative L1 difference that is left out")
    settings = (0.02, 0.03, 0.05, 0.08, 0.12, 0.18, 0.25, 0.35, 0.5, 0.7)
    needs: Literal["nothing", "recordings"] = "recordings"

    def misfit(self, model: Target) -> str | None:
        """None: every known model has modules."""
        return None

    def calibrate(self, recordings: Recordings, settings: Sequence[float]) -> Any:
        """Mean differences of each kind, (lookaheads, steps), over layers, branches and prompts."""
        sites = recordings.target.sites
        changes = OutputChanges(len(sites), recordings.settings.steps)
        for batch in recordings.batches:
            record(recordings.target, changes, partial(generate, recordings.pipeline, batch, recordings.settings))
        recordings.bytes += changes.bytes
        kinds = {}
        for kind in dict.fromkeys(site.kind for site in sites):
            rows = [index for index, site in enumerate(sites) if site.kind == kind]
            sums, counts = changes.sums[rows].sum(axis=0), changes.counts[rows].sum(axis=0)
            mean = sums / np.maximum(counts, 1)
            kinds[kind] = [
                [float(each) if n else None for each, n in zip(*row, strict=True)]
                for row in zip(mean, counts, strict=True)
            ]
        return kinds

    def at(self, setting: float, calibration: Any, steps: int) -> Policy:
        """The policy of a threshold; kinds that would compute in every step have no rule."""
        schedules = {
            kind: greedy_schedule(np.array(rows, dtype=np.float64), setting) for kind, rows in calibration.items()
        }
        rules = tuple(
            Rule(kind=kind, compute=computed) for kind, computed in schedules.items() if len(computed) < steps
        )
        return Policy(name=f"smoothcache:{setting:g}", rules=rules)


def greedy_schedule(errors: NDArray[np.float64], threshold: float) -> tuple[int, ...]:
    """The steps that compute by SmoothCache's greedy rule.

    From a step that computes, as many steps are skipped as the longest lookahead within the threshold reaches, and the step
    behind them computes next; the last step computes in any case.

    Args:
        errors: (lookaheads, steps), relative L1 difference between the output of a step and that of the step `lookahead + 1`
            later; NaN where there is no such step.
        threshold: largest difference that is accepted, α.
    """
    lookaheads, steps = errors.shape
    computed, step = {steps - 1}, 0
    while step < steps:
        computed.add(step)
        skipped = [ahead + 1 for ahead in range(lookaheads) if errors[ahead, step] <= threshold]
        step += 1 + max(skipped, default=0)
    return tuple(sorted(computed))
