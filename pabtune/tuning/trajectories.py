"""Recording what whole calls of the transformers put out in full runs, and how the latents follow from it.

A pipeline tells its latents after each step by diffusers' `callback_on_step_end`. How its scheduler and guidance make them of
the outputs is found by least squares, so that nothing about either need be known:

    x[i+1] = a x[i] + b y[i] + c x[i-1] + d y[i-1], where y is the sum over branches of m y_branch.

The terms of the step before are those of multistep schedulers (UniPC, DPM-Solver++). What a scheduler adds besides, such as
noise of its own, is the same in every run of the same seed, and falls out of differences of runs.
"""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline
from numpy.typing import NDArray
from torch import Tensor

from pabtune.planning.surrogate import Surrogate, gain_curve
from pabtune.records.errors import FitError
from pabtune.records.prompts import Prompt
from pabtune.runtime.listeners import Forward, Measurement, tensors_of
from pabtune.runtime.locator import CallPosition
from pabtune.runtime.payloads import taken_apart
from pabtune.runtime.recorder import BRANCH_SEPARATOR, record
from pabtune.runtime.targets import Target
from pabtune.tuning.generation import Generation, Settings, generate

CALLBACK = "callback_on_step_end"

NOT_FITTED = "schedules of whole calls cannot be fitted"

LEAST_RATE = 1e-3
"""Steps that add less of their output than this share of what others add do not tell how branches are mixed."""

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
        if "latents" not in tensors:
            raise FitError(f"{type(pipeline).__name__} does not tell its latents: {NOT_FITTED} for it")
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
        transformers: per step, the names of the transformers that are called.
        loops: number of denoising loops.
    """

    def __init__(self) -> None:
        self.outputs: list[Outputs] = []
        self.transformers: list[set[str]] = []
        self.loops = 0

    def end(self, position: CallPosition, output: Any) -> None:
        """Notes the output (see `Session`)."""
        super().end(position, output)
        self.loops += position.is_new_loop
        while len(self.outputs) <= position.step:
            self.outputs.append({})
            self.transformers.append(set())
        self.outputs[position.step] |= branches_of(position, output)
        self.transformers[position.step].add(position.transformer)

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
        FitError: they have another shape than the latents.
    """
    parts: list[Tensor] = []
    for output in outputs.values():
        for part in output.chunk(max(output.shape[0] // latents.shape[0], 1)):
            cut = part[:, : latents.shape[1]] if part.ndim == latents.ndim else part
            if cut.shape != latents.shape:
                raise FitError(
                    f"the transformer puts out {tuple(part.shape)}, but the latents are {tuple(latents.shape)}: {NOT_FITTED} "
                    "for this pipeline"
                )
            parts.append(cut.float())
    return parts


@dataclass(frozen=True, slots=True, kw_only=True)
class Recurrence:
    """How the latents after a step follow from those before it and from outputs, as weights.

    Attributes:
        keep: of the latents before the step.
        rate: of the step's output.
        earlier_keep: of the latents before the step before; 0 at the second step.
        earlier_rate: of the output of the step before.
    """

    keep: float
    rate: float
    earlier_keep: float
    earlier_rate: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Trajectories:
    """Full runs of one batch of prompts, and how their latents follow from the outputs of calls.

    Attributes:
        prompts: of the batch.
        latents: after each step, (prompts, …).
        outputs: per step, the output of the step's calls as guidance puts it together, (prompts, …).
        transformers: per step, the name of the transformer that is called.
        mixtures: weight of each branch in `outputs`, by transformer; they sum to 1.
        recurrences: per step from the second on, how the latents follow.
        keeps: per step, how much of the latents it keeps, without terms of the step before; the first step's is 1.
        rates: per step, how much of its output it adds, without those terms; the first step's is that of the second.
        generation: the videos.
    """

    prompts: tuple[Prompt, ...]
    latents: list[Tensor]
    outputs: list[Tensor]
    transformers: tuple[str, ...]
    mixtures: Mapping[str, tuple[float, ...]]
    recurrences: Mapping[int, Recurrence]
    keeps: tuple[float, ...]
    rates: tuple[float, ...]
    generation: Generation

    @property
    def takeovers(self) -> frozenset[int]:
        """Steps in which another transformer takes over."""
        return frozenset(step for step, (before, now) in enumerate(pairwise(self.transformers), 1) if before != now)

    def of_prompt(self, index: int) -> "Trajectories":
        """The run of one prompt of the batch."""
        videos, seconds = self.generation.videos[index : index + 1], self.generation.seconds / len(self.prompts)
        return replace(
            self,
            prompts=self.prompts[index : index + 1],
            latents=[each[index : index + 1] for each in self.latents],
            outputs=[each[index : index + 1] for each in self.outputs],
            generation=Generation(videos=videos, seconds=seconds),
        )

    def mixed(self, outputs: Outputs, step: int) -> Tensor:
        """Outputs of the calls of a step as guidance puts them together."""
        return mix(as_latents(outputs, self.latents[0]), self.mixtures[self.transformers[step]])


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
        FitError: the pipeline does not tell its latents, or they do not follow from the outputs of calls.
    """
    name = type(pipeline).__name__
    if not tells_latents(pipeline):
        raise FitError(f"{name} has no {CALLBACK}: {NOT_FITTED} for it")
    recorder, watch = CallRecorder(), LatentsWatch()
    generation = record(target, recorder, partial(generate, pipeline, prompts, watch.settings(settings)))
    return trajectories_of(name, recorder, watch.after, prompts, settings.steps, generation)


def trajectories_of(
    name: str,
    recorder: CallRecorder,
    latents: list[Tensor],
    prompts: Sequence[Prompt],
    steps: int,
    generation: Generation,
) -> Trajectories:
    """The trajectories of a run in full.

    Args:
        name: of the pipeline, for messages.
        recorder: noted the run's calls.
        latents: after each step.
        prompts: of the run.
        steps: denoising steps that were asked for.
        generation: the videos.

    Raises:
        FitError: the latents do not follow from the outputs of calls.
    """
    _check_run(name, recorder, latents, steps)
    parts = [as_latents(outputs, latents[0]) for outputs in recorder.outputs]
    transformers = tuple(each for (each,) in recorder.transformers)
    if any(len({len(parts[step]) for step in turn}) != 1 for turn in _turns(transformers).values()):
        raise FitError(f"{name} does not call its transformer alike in every step: {NOT_FITTED} for it")
    mixtures = {each: _mixture(name, latents, parts, turn) for each, turn in _turns(transformers).items()}
    outputs = [mix(each, mixtures[transformer]) for each, transformer in zip(parts, transformers, strict=True)]
    alone = [_follow([latents[step - 1], outputs[step]], latents[step]) for step in range(1, len(latents))]
    return Trajectories(
        prompts=tuple(prompts),
        latents=latents,
        outputs=outputs,
        transformers=transformers,
        mixtures=mixtures,
        recurrences={step: _recurrence(latents, outputs, step) for step in range(1, len(latents))},
        keeps=(1.0, *(keep for keep, _ in alone)),
        rates=(alone[0][1], *(rate for _, rate in alone)),
        generation=generation,
    )


def _check_run(name: str, recorder: CallRecorder, latents: Sequence[Tensor], steps: int) -> None:
    """Refuses runs whose latents cannot follow step by step from the calls.

    Raises:
        FitError: says why.
    """
    if recorder.loops > 1:
        raise FitError(f"{name} has {recorder.loops} denoising loops in one call: {NOT_FITTED} for it")
    if len(recorder.outputs) != len(latents) or any(len(each) != 1 for each in recorder.transformers):
        raise FitError(f"{name} does not call one transformer in every step: {NOT_FITTED} for it")
    if len(latents) != steps:
        raise FitError(
            f"the scheduler of {name} makes {len(latents)} steps where {steps} are asked for: {NOT_FITTED} for it"
        )
    if not all(bool(each.isfinite().all()) for each in latents):
        raise FitError(f"the latents of {name} are not finite: {NOT_FITTED}")


def _turns(transformers: Sequence[str]) -> dict[str, list[int]]:
    """The steps of each transformer."""
    turns: dict[str, list[int]] = {}
    for step, name in enumerate(transformers):
        turns.setdefault(name, []).append(step)
    return turns


def _mixture(
    name: str, latents: Sequence[Tensor], parts: Sequence[Sequence[Tensor]], steps: Sequence[int]
) -> tuple[float, ...]:
    """Weight of each branch as guidance puts outputs together: the median over steps.

    Args:
        name: of the pipeline, for messages.
        latents: after each step.
        parts: per step, the output of each branch.
        steps: steps of one transformer.

    Raises:
        FitError: the latents do not change with the outputs.
    """
    count, found = len(parts[steps[0]]), []
    for step in steps:
        if step > 1:
            columns = [latents[step - 1], *parts[step], latents[step - 2], *parts[step - 1]]
            found.append(_follow(columns, latents[step])[1 : 1 + count])
    branches = np.array(found).reshape(-1, count)
    totals = np.abs(branches.sum(axis=1))
    adding = totals > LEAST_RATE * totals.max(initial=0.0)
    if not adding.any():
        raise FitError(f"the latents of {name} do not follow from what its transformer puts out: {NOT_FITTED} for it")
    mixture = np.median(branches[adding] / branches[adding].sum(axis=1, keepdims=True), axis=0)
    return tuple((mixture / mixture.sum()).tolist())


def _recurrence(latents: Sequence[Tensor], outputs: Sequence[Tensor], step: int) -> Recurrence:
    """How the latents after a step follow from what came before."""
    columns = [latents[step - 1], outputs[step], outputs[step - 1]]
    if step > 1:
        columns.append(latents[step - 2])
    keep, rate, earlier_rate, earlier_keep = (*_follow(columns, latents[step]), 0.0)[:4]
    return Recurrence(keep=keep, rate=rate, earlier_keep=earlier_keep, earlier_rate=earlier_rate)


def _follow(columns: Sequence[Tensor], after: Tensor) -> list[float]:
    """Weights of what makes the latents after a step, by least squares; of columns that depend on others, the smallest."""
    matrix = torch.stack([column.flatten() for column in columns], dim=1).double()
    normal, right = (matrix.T @ matrix).cpu().numpy(), (matrix.T @ after.flatten().double()).cpu().numpy()
    sizes = np.sqrt(np.maximum(np.diag(normal), np.finfo(np.float64).tiny))
    solution = np.linalg.lstsq(normal / np.outer(sizes, sizes), right / sizes, rcond=1e-10)[0]
    return (solution / sizes).tolist()


def products_of(run: Trajectories) -> NDArray[np.float64]:
    """Inner products of the outputs of all pairs of steps, per number of the latents, (prompts, steps, steps)."""
    flat = torch.stack(run.outputs).double().flatten(2).transpose(0, 1)
    return np.asarray((flat @ flat.transpose(1, 2) / flat.shape[2]).cpu().numpy())


def surrogate_of(runs: Sequence[Trajectories], gains: Sequence[Mapping[int, Sequence[float]]]) -> Surrogate:
    """The surrogate of some recorded runs.

    Args:
        runs: full runs, a batch each.
        gains: of each batch, at some steps, for each video the size of the final error over that of an error made there.
    """
    curves = [
        gain_curve({step: measured[step][index] for step in measured}, len(run.rates))
        for run, measured in zip(runs, gains, strict=True)
        for index in range(len(run.prompts))
    ]
    return Surrogate(
        products=np.concatenate([products_of(run) for run in runs]),
        keeps=np.mean([run.keeps for run in runs], axis=0),
        rates=np.mean([run.rates for run in runs], axis=0),
        gains=np.array(curves),
        takeovers=runs[0].takeovers,
    )
