"""Recording what whole calls of the transformers put out in full runs, and how the latents follow from it.

A pipeline tells its latents after each step by diffusers' `callback_on_step_end`. How its scheduler and guidance make them of
the outputs is found by least squares, so that nothing about either need be known: x[i+1] = a x[i] + sum over branches of b y.
"""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from pabtune.planning.surrogate import Surrogate
from pabtune.records.errors import ModelError
from pabtune.records.prompts import Prompt
from pabtune.runtime.listeners import Forward, Measurement, tensors_of
from pabtune.runtime.locator import CallPosition
from pabtune.runtime.payloads import taken_apart
from pabtune.runtime.recorder import BRANCH_SEPARATOR, record
from pabtune.runtime.targets import Target
from pabtune.tuning.generation import Generation, Settings, generate

CALLBACK = "callback_on_step_end"

LEAST_GAIN = 0.05
"""Smaller gains are taken for this: errors of rounding are not told from errors that fade."""

Outputs = dict[str, Tensor]
"""Outputs of the calls of one step by branch, cut to the latents' shape."""


@dataclass(slots=True)
class LatentsWatch:
    """The latents of a run, as its callback tells them.

    Attributes:
        after: latents after each step so far, in the host's memory.
    """

    after: list[Tensor] = field(default_factory=list)

    def __call__(self, pipeline: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        """Notes the latents (see diffusers' `callback_on_step_end`)."""
        self.after.append(tensors["latents"].detach().float().to("cpu", copy=True))
        return tensors

    def settings(self, settings: Settings) -> Settings:
        """The settings of a run that tells its latents here."""
        return replace(settings, arguments={**settings.arguments, CALLBACK: self})


def tells_latents(pipeline: DiffusionPipeline) -> bool:
    """Whether a pipeline tells its latents after each step."""
    return CALLBACK in inspect.signature(type(pipeline).__call__).parameters


class CallRecorder(Measurement):
    """Measurement that notes the outputs of the transformers' calls of one run.

    Attributes:
        outputs: per step, the output of each branch's call.
    """

    def __init__(self) -> None:
        self.outputs: list[Outputs] = []

    def end(self, position: CallPosition, output: Any) -> None:
        """Notes the output (see `Session`)."""
        super().end(position, output)
        while len(self.outputs) <= position.step:
            self.outputs.append({})
        self.outputs[position.step] |= branches_of(position, output)

    def site(self, index: int, forward: Forward, args: Any, kwargs: Any) -> Any:
        """Computes (see `Measurement`)."""
        return forward(*args, **kwargs)

    feeder = site


def branches_of(position: CallPosition, output: Any) -> Outputs:
    """The first tensor of a call's output by branch, in the host's memory: parts of the batch that its name joins, or all."""
    names = position.branch.split(BRANCH_SEPARATOR)
    tensor = tensors_of(taken_apart(output)[1])[0].detach().to("cpu", copy=True)
    return dict(zip(names, tensor.chunk(len(names)), strict=True))


def as_latents(outputs: Outputs, latents: Tensor) -> list[Tensor]:
    """Outputs of a step, cut to the latents' channels; a batch of several branches that nobody names is taken apart.

    Raises:
        ModelError: they have another shape than the latents.
    """
    parts: list[Tensor] = []
    for output in outputs.values():
        for part in output.chunk(max(output.shape[0] // latents.shape[0], 1)):
            cut = part[:, : latents.shape[1]] if part.ndim == latents.ndim else part
            if cut.shape != latents.shape:
                raise ModelError(
                    f"the transformer puts out {tuple(part.shape)}, but the latents are {tuple(latents.shape)}: schedules of "
                    "whole calls cannot be fitted for this pipeline"
                )
            parts.append(cut.float())
    return parts


@dataclass(frozen=True, slots=True, kw_only=True)
class Trajectories:
    """Full runs of one batch of prompts, and how their latents follow from the outputs of calls.

    Attributes:
        prompts: of the batch.
        latents: after each step, (prompts, …).
        outputs: per step, the output of the step's calls as guidance puts it together, (prompts, …).
        mixture: weight of each branch in `outputs`; they sum to 1.
        keeps: per step, how much of the latents it keeps; the first step's is 1.
        rates: per step, how much of its output it adds; the first step's is that of the second.
        generation: the videos.
    """

    prompts: tuple[Prompt, ...]
    latents: list[Tensor]
    outputs: list[Tensor]
    mixture: tuple[float, ...]
    keeps: tuple[float, ...]
    rates: tuple[float, ...]
    generation: Generation

    def mixed(self, outputs: Outputs) -> Tensor:
        """Outputs of a step's calls as guidance puts them together."""
        parts = as_latents(outputs, self.latents[0])
        return mix(parts, self.mixture)


def mix(parts: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Weighted sum of tensors."""
    total = parts[0] * weights[0]
    for part, weight in zip(parts[1:], weights[1:], strict=True):
        total = total + part * weight
    return total


def record_trajectories(
    pipeline: DiffusionPipeline, target: Target, prompts: Sequence[Prompt], settings: Settings
) -> Trajectories:
    """Runs a batch of prompts in full, and records.

    Args:
        pipeline: the model.
        target: its transformers.
        prompts: one batch.
        settings: how videos are generated.

    Raises:
        ModelError: the pipeline does not tell its latents, or they do not follow from the outputs of calls.
    """
    if not tells_latents(pipeline):
        raise ModelError(
            f"{type(pipeline).__name__} has no {CALLBACK}: schedules of whole calls cannot be fitted for it"
        )
    recorder, watch = CallRecorder(), LatentsWatch()
    generation = record(target, recorder, partial(generate, pipeline, prompts, watch.settings(settings)))
    latents = watch.after
    parts = [as_latents(outputs, latents[0]) for outputs in recorder.outputs]
    if len(parts) != len(latents) or len({len(each) for each in parts}) != 1:
        raise ModelError("the pipeline does not call its transformer alike in every step: no schedules can be fitted")
    fits = [_follow(latents[step - 1], latents[step], parts[step]) for step in range(1, len(latents))]
    totals = np.array([branches.sum() for _, branches in fits])
    mixture = np.median(np.array([branches for _, branches in fits]) / totals[:, None], axis=0)
    mixture = mixture / mixture.sum()
    return Trajectories(
        prompts=tuple(prompts),
        latents=latents,
        outputs=[mix(each, mixture.tolist()) for each in parts],
        mixture=tuple(mixture.tolist()),
        keeps=(1.0, *(float(kept) for kept, _ in fits)),
        rates=(float(totals[0]), *totals.tolist()),
        generation=generation,
    )


def _follow(before: Tensor, after: Tensor, parts: Sequence[Tensor]) -> tuple[float, np.ndarray]:
    """How much of the latents and of each branch's output makes the latents after a step."""
    columns = torch.stack([before.flatten(), *(part.flatten() for part in parts)], dim=1).double()
    normal, right = (columns.T @ columns).cpu().numpy(), (columns.T @ after.flatten().double()).cpu().numpy()
    solution = np.linalg.lstsq(normal, right, rcond=1e-10)[0]
    return float(solution[0]), solution[1:]


def surrogate_of(runs: Sequence[Trajectories], gains: Sequence[Mapping[int, Sequence[float]]]) -> Surrogate:
    """The surrogate of some recorded runs.

    Args:
        runs: full runs, a batch each.
        gains: of each batch, at some steps, for each video the size of the final error over that of an error made there.
    """
    products, curves = [], []
    for run, measured in zip(runs, gains, strict=True):
        flat = torch.stack(run.outputs).double().flatten(2).transpose(0, 1)
        products.append((flat @ flat.transpose(1, 2) / flat.shape[2]).cpu().numpy())
        places, steps = sorted(measured), len(run.rates)
        for index in range(len(run.prompts)):
            levels = [float(np.log(max(measured[place][index], LEAST_GAIN))) for place in places]
            curves.append(np.exp(np.interp(np.arange(steps), [*places, steps - 1], [*levels, 0.0])))
    return Surrogate(
        products=np.concatenate(products),
        keeps=np.mean([run.keeps for run in runs], axis=0),
        rates=np.mean([run.rates for run in runs], axis=0),
        gains=np.array(curves),
    )
