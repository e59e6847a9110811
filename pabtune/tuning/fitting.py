"""Fitting the factors of a schedule of whole calls while it runs: they bring the next latents close to those of the full run.

At a step that broadcasts, the latents and outputs of the full run are known, and those of this run so far. The factors follow
by least squares from the differences between the two, over all videos that were fitted so far. What the network makes of
earlier errors is in the run itself.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline
from numpy.typing import NDArray
from torch import Tensor

from pabtune.planning.surrogate import Factors, solve
from pabtune.runtime.listeners import Forward, Measurement, Substitute
from pabtune.runtime.locator import CallPosition
from pabtune.runtime.payloads import map_tensors, taken_apart, weighted_sum
from pabtune.runtime.recorder import record
from pabtune.runtime.targets import Target
from pabtune.tuning.generation import Generation, Settings, generate
from pabtune.tuning.trajectories import LatentsWatch, Outputs, Trajectories, branches_of

FIT_RIDGE = 1e-6
"""Of the least squares on running models, where errors of the network count."""


@dataclass(slots=True)
class Equations:
    """Normal equations of the factors of each step, added up over batches."""

    normal: dict[int, NDArray[np.float64]] = field(default_factory=lambda: defaultdict(lambda: np.zeros((0, 0))))
    right: dict[int, NDArray[np.float64]] = field(default_factory=lambda: defaultdict(lambda: np.zeros(0)))

    def add(self, step: int, columns: Sequence[Tensor], target: Tensor) -> tuple[float, ...]:
        """Adds equations of a step, and returns the factors so far.

        Args:
            step: the step.
            columns: what each factor multiplies.
            target: what they should add up to.
        """
        if not columns:
            return ()
        matrix = torch.stack([column.flatten() for column in columns], dim=1).double()
        normal, right = (matrix.T @ matrix).cpu().numpy(), (matrix.T @ target.flatten().double()).cpu().numpy()
        if step in self.normal:
            normal, right = normal + self.normal[step], right + self.right[step]
        self.normal[step], self.right[step] = normal, right
        return solve(normal, right, FIT_RIDGE)


class FactorFitter(Measurement):
    """Listener that runs a schedule of whole calls, and fits its factors on the way.

    Args:
        run: the full run of the same prompts.
        watch: tells the latents of this run.
        computed: the steps that compute.
        equations: of the batches before; added to.
        most: most factors of a step.

    Attributes:
        factors: per step, as fitted so far.
    """

    def __init__(
        self, run: Trajectories, watch: LatentsWatch, computed: Sequence[int], equations: Equations, most: int
    ) -> None:
        self._run, self._watch, self._equations, self._most = run, watch, equations, most
        self._computed = {*computed, *run.takeovers}
        self._calls: list[dict[str, Any]] = []
        self._outputs: list[Outputs] = []
        self._served: dict[int, Tensor] = {}
        self._rebuild: Callable[[tuple[Any, ...]], Any] = tuple
        self.factors: dict[int, tuple[float, ...]] = {}

    def begin(self, position: CallPosition, sample: Tensor) -> Substitute | None:
        """Broadcasts the call, if its step does (see `Session`)."""
        if position.step in self._computed:
            if position.ordinal == 0:
                first = (
                    len(self._calls) if position.step in self._run.takeovers else max(len(self._calls) - self._most, 0)
                )
                self._calls, self._outputs = [*self._calls[first:], {}], [*self._outputs[first:], {}]
            return super().begin(position, sample)
        if position.step not in self.factors:
            self.factors[position.step] = self._fit(position.step)
        outputs = [calls[position.branch] for calls in self._calls]
        weights = [0.0] * (len(outputs) - 1) + [1.0]
        for back, factor in enumerate(self.factors[position.step], start=1):
            weights[-back] += factor
            weights[-back - 1] -= factor
        return Substitute(self._rebuild(weighted_sum(outputs, weights)))

    def end(self, position: CallPosition, output: Any) -> None:
        """Notes the output (see `Session`)."""
        super().end(position, output)
        self._rebuild, parts = taken_apart(output)
        self._calls[-1][position.branch] = map_tensors(torch.clone, parts)
        self._outputs[-1] |= branches_of(position, output)

    def _fit(self, step: int) -> tuple[float, ...]:
        """The factors of a step: they undo the difference that the latents would have from those of the full run after it."""
        run, latents, recurrence = self._run, self._watch.after, self._run.recurrences[step]
        mixed = [run.mixed(outputs, step) for outputs in self._outputs]
        changes = [mixed[-back] - mixed[-back - 1] for back in range(1, len(mixed))]
        before = self._served.get(step - 1, mixed[-1])
        missing = recurrence.keep * (run.latents[step - 1] - latents[step - 1])
        missing += recurrence.rate * (run.outputs[step] - mixed[-1])
        missing += recurrence.earlier_rate * (run.outputs[step - 1] - before)
        if step > 1:
            missing += recurrence.earlier_keep * (run.latents[step - 2] - latents[step - 2])
        factors = self._equations.add(step, [recurrence.rate * change for change in changes[: self._most]], missing)
        served = mixed[-1].clone()
        for factor, change in zip(factors, changes, strict=False):
            served += factor * change
        self._served = {step: served}
        return factors

    def site(self, index: int, forward: Forward, args: Any, kwargs: Any) -> Any:
        """Computes (see `Measurement`)."""
        return forward(*args, **kwargs)

    feeder = site


def fit_factors(
    pipeline: DiffusionPipeline,
    target: Target,
    runs: Sequence[Trajectories],
    settings: Settings,
    computed: Sequence[int],
    most: int = 2,
) -> tuple[Factors, list[tuple[Generation, Tensor]]]:
    """Factors of a schedule, fitted on prompts that were recorded, and what the runs put out: videos and final latents.

    Args:
        pipeline: the model.
        target: its transformers.
        runs: recorded full runs, a batch each.
        settings: how videos are generated.
        computed: the steps that compute.
        most: most factors of a step.
    """
    equations, results = Equations(), []
    fitter = None
    for run in runs:
        watch = LatentsWatch()
        fitter = FactorFitter(run, watch, computed, equations, most)
        generation = record(target, fitter, partial(generate, pipeline, run.prompts, watch.settings(settings)))
        results.append((generation, watch.after[-1]))
    found = fitter.factors if fitter is not None else {}
    return tuple(found.get(step, ()) for step in range(settings.steps)), results
