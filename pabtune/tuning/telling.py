"""Learning which content class a run is of from its first steps, and measuring that on prompts it never saw.

Shapes: P prompts, K numbers, C classes.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from diffusers import DiffusionPipeline
from numpy.typing import NDArray
from torch import Tensor

from pabtune.catalog import CATALOG, Catalog
from pabtune.planning.masks import resolve
from pabtune.planning.schedules import NoiseSchedule
from pabtune.records.errors import PabtuneError, StudyError
from pabtune.records.first_steps import NUMBERS, OF_FRAMES, FirstSteps
from pabtune.records.policies import Policy
from pabtune.records.prompts import Prompt
from pabtune.records.splits import Split
from pabtune.runtime.first_steps import numbers_of
from pabtune.runtime.listeners import Forward, Measurement
from pabtune.runtime.locator import CallPosition
from pabtune.runtime.recorder import record
from pabtune.runtime.targets import Target
from pabtune.tuning.classifying import MARGIN, Accuracy, accuracy_of, fit_best
from pabtune.tuning.generation import Settings, batches, generate

MOST_STEPS = 3
"""Steps that tell the class at most: with more of 30 it is told hardly better (docs/log.md), and they all compute."""

CHANNELS, FRAMES = 1, 2
"""Axes of the latents of most videos; where the channels stand on the second one, frames stand on the first."""

VIDEO_AXES = 5

LEAST_SPREAD = 1e-6
"""Standard deviation below which a number is the same for all prompts, and is left out."""


class _SeenEnough(PabtuneError):
    """Ends a run after its first steps."""


class FirstInputs(Measurement):
    """Measurement that notes the latents before each of the first steps, and ends the run then.

    Args:
        steps: that are computed.

    Attributes:
        latents: before each step, the one after the computed ones among them.
    """

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self.latents: list[Tensor] = []

    def begin(self, position: CallPosition, sample: Tensor) -> None:
        """Notes the latents (see `Session`)."""
        if position.step == len(self.latents):
            self.latents.append(sample.detach().clone())
        if len(self.latents) > self._steps:
            raise _SeenEnough("the first steps are over")
        super().begin(position, sample)

    def site(self, index: int, forward: Forward, args: Any, kwargs: Any) -> Any:
        """Computes (see `Measurement`)."""
        return forward(*args, **kwargs)

    feeder = site


def fit_first_steps(
    pipeline: DiffusionPipeline,
    policy: Policy,
    prompts: Split,
    contents: Sequence[str],
    settings: Settings,
    catalog: Catalog = CATALOG,
) -> tuple[FirstSteps | None, Accuracy | None]:
    """A classifier of first steps, fitted to the prompts to tune on and to validate with, and its accuracy on the others.

    As many steps tell the class as the policy computes whatever the class, three at most. None with fewer than two classes.

    Args:
        pipeline: the model.
        policy: with a variant for each content class that has one.
        prompts: labelled by their content class.
        contents: the classes to tell apart.
        settings: how videos are generated.
        catalog: what is known of transformer classes.

    Raises:
        StudyError: the model's runs do not show their first steps.
    """
    parts = {name: [each for each in part if each.content in contents] for name, part in prompts.parts().items()}
    fitted_on = [*parts["tune"], *parts["validate"]]
    classes = [content for content in contents if any(each.content == content for each in fitted_on)]
    if len(classes) < 2:
        return None, None
    target = Target.of(pipeline, catalog)
    steps = steps_before_broadcasts(policy, target, settings.steps)
    fitted = list(batches(fitted_on, settings.batch_size))
    seen = [first_latents(pipeline, target, batch, settings, steps) for batch in fitted]
    axis = frame_axis(target, seen[0][0])
    numbers = tuple(f"{name}@{steps}" for name in NUMBERS if axis is not None or name not in OF_FRAMES)
    values_PK = np.concatenate([_rows(latents, numbers, axis) for latents in seen])
    labels_P = np.array([classes.index(each.content) for batch in fitted for each in batch])
    rule = _fit_rule(values_PK, labels_P, numbers, classes, steps, axis)
    tested = list(batches([each for each in parts["test"] if each.content in classes], settings.batch_size))
    told = [
        rule.content_of(row)
        for batch in tested
        for row in _rows(first_latents(pipeline, target, batch, settings, steps), rule.numbers, axis).tolist()
    ]
    return rule, accuracy_of(told, [each.content for batch in tested for each in batch])


def steps_before_broadcasts(policy: Policy, target: Target, steps: int) -> int:
    """How many first steps of a run compute under the rules of every content class, three at most."""
    schedule = NoiseSchedule(steps=policy.made_for.steps or steps, sigmas=policy.made_for.sigmas)
    most = min(MOST_STEPS, schedule.steps - 1)
    for content in (None, *policy.variants):
        mask = resolve(policy, target.under(policy, content).sites, schedule, content)
        broadcasts = np.flatnonzero(~mask.compute.all(axis=0))
        most = min([most, *broadcasts[:1].tolist()])
    return most


def first_latents(
    pipeline: DiffusionPipeline, target: Target, batch: Sequence[Prompt], settings: Settings, steps: int
) -> list[Tensor]:
    """The latents before each of the first steps of one call and the one after them; the rest does not run.

    Raises:
        StudyError: the run does not call its transformer step by step, with latents of one shape.
    """
    if settings.meter is not None:
        settings.meter.add(len(batch), steps)
    inputs = FirstInputs(steps)
    with suppress(_SeenEnough):
        record(target, inputs, partial(generate, pipeline, batch, replace(settings, meter=None)))
    latents = inputs.latents
    if len(latents) <= steps or len({each.shape for each in latents}) != 1 or len(latents[0]) < len(batch):
        raise StudyError(
            f"{type(pipeline).__name__} does not call its transformer step by step with latents of one shape, so that first "
            "steps tell no content class; tell it by the prompt"
        )
    return [each[: len(batch)] for each in latents]


def frame_axis(target: Target, latents: Tensor) -> int | None:
    """The axis of frames among those of the latents; None where latents are no video of five axes."""
    if latents.ndim != VIDEO_AXES:
        return None
    config: Any = getattr(next(iter(target.transformers.values())), "config", {})
    channels = config.get("in_channels")
    is_swapped = latents.shape[CHANNELS] != channels and latents.shape[FRAMES] == channels
    return CHANNELS if is_swapped else FRAMES


def _rows(latents: Sequence[Tensor], numbers: Sequence[str], axis: int | None) -> NDArray[np.float64]:
    return np.array(numbers_of(latents, numbers, axis).tolist(), dtype=np.float64).reshape(-1, len(numbers))


def _fit_rule(
    values_PK: NDArray[np.float64],
    labels_P: NDArray[np.int64],
    numbers: Sequence[str],
    classes: Sequence[str],
    steps: int,
    axis: int | None,
) -> FirstSteps:
    """The rule, of numbers as they are; they are fitted at mean 0 and deviation 1."""
    mean_K, deviation_K = values_PK.mean(axis=0), values_PK.std(axis=0)
    kept = [index for index, each in enumerate(deviation_K) if each > LEAST_SPREAD]
    scaled_PK = (values_PK[:, kept] - mean_K[kept]) / deviation_K[kept]
    weights_KC, bias_C = fit_best(scaled_PK, labels_P, len(classes))
    weights_KC = (weights_KC - weights_KC.mean(axis=1, keepdims=True)) / deviation_K[kept][:, None]
    bias_C = bias_C - bias_C.mean() - mean_K[kept] @ weights_KC
    return FirstSteps(
        steps=steps,
        frame_axis=axis,
        bias={content: round(float(bias_C[at]), 3) for at, content in enumerate(classes)},
        weights={
            content: {numbers[index]: round(float(weights_KC[row, at]), 3) for row, index in enumerate(kept)}
            for at, content in enumerate(classes)
        },
        margin=round(MARGIN, 3),
    )
