"""Generating videos reproducibly: same prompt, seed and settings, same initial noise."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from operator import itemgetter
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline
from diffusers.utils import load_image
from numpy.typing import NDArray

from pabtune.catalog.frame_rates import usual_rate
from pabtune.libraries.diffusers_internals import execution_device
from pabtune.records.errors import ModelError, as_error
from pabtune.records.policies import Policy
from pabtune.records.prompts import Prompt
from pabtune.records.splits import in_chance_order
from pabtune.runtime.deciders import DynamicPolicy
from pabtune.runtime.flops import FlopCount, count_flops
from pabtune.runtime.targets import Target
from pabtune.runtime.timing import now
from pabtune.tuning.videos import VideoMeter

Video = NDArray[np.uint8]
"""Frames of one video, (frames, height, width, 3)."""

Progress = Callable[[int, int], None]
"""Told how many of how many parts of the work are done."""

BATCH_SIZE = 4

WARM_UP_STEPS = 4
"""Of a run that only warms up: PNDM knows no shorter one."""

RATE_NAMES = ("fps", "frame_rate")
"""What pipelines call the frames per second, if they take them."""

OWN_ARGUMENTS: Mapping[str, str] = {
    "prompt": ", from the prompts", "generator": ", from the seeds", "num_inference_steps": ", from the steps",
    "output_type": "", "return_dict": "",
}  # fmt: skip
"""Arguments of a pipeline's call that are not for users to set, and what sets them."""

FRAMES_NAMES = ("num_frames", "video_length", "frames")
"""What pipelines call the number of frames."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How videos are made.

    Attributes:
        steps: denoising steps.
        batch_size: prompts in one call of the pipeline.
        arguments: further arguments of the pipeline's call; an `image` may be a file's name.
        meter: counts the videos; None = nobody does.
    """

    steps: int
    batch_size: int = BATCH_SIZE
    arguments: Mapping[str, Any] = field(default_factory=dict)
    meter: VideoMeter | None = None

    def under(self, policy: Policy | DynamicPolicy) -> "Settings":
        """The settings of a run under a policy, which may have a number of denoising steps of its own."""
        return self if policy.steps is None else replace(self, steps=policy.steps)


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """Videos of one call of a pipeline.

    Attributes:
        videos: of the prompts.
        seconds: wall time.
        is_finite: whether all frames are; one that is not is black.
    """

    videos: list[Video]
    seconds: float
    is_finite: bool = True


def count_model_flops(pipeline: DiffusionPipeline, target: Target, prompt: Prompt, settings: Settings) -> FlopCount:
    """FLOPs of a denoising step for one prompt: of the first, or, where a second transformer takes over, of all."""
    steps = WARM_UP_STEPS if len(target.transformers) == 1 else settings.steps
    return count_flops(target, lambda: generate(pipeline, [prompt], replace(settings, steps=steps)))


def check_arguments(pipeline: DiffusionPipeline, arguments: Mapping[str, Any], source: str = "") -> None:
    """Refuses arguments that the pipeline's call does not take, and those that pabtune sets itself.

    Args:
        pipeline: the model.
        arguments: of its call, by name.
        source: the one option that they stand for, if the user did not name them.

    Raises:
        ModelError: names what it does take.
    """
    parameters = inspect.signature(type(pipeline).__call__).parameters
    for name in arguments:
        if name in OWN_ARGUMENTS:
            raise ModelError(f"the argument {name!r} is set by pabtune itself{OWN_ARGUMENTS[name]}; leave it out")
        if name not in parameters and source:
            raise ModelError(f"{type(pipeline).__name__} takes no {name}; leave {source} out")
        if name not in parameters:
            takes = ", ".join(key for key in parameters if key not in ("self", *OWN_ARGUMENTS))
            raise ModelError(f"{type(pipeline).__name__} takes no argument {name!r}; it takes: {takes}")


def size_arguments(pipeline: DiffusionPipeline, frames: int, height: int, width: int) -> dict[str, int]:
    """A video's size in the words of the pipeline's call."""
    parameters = inspect.signature(type(pipeline).__call__).parameters
    names = [name for name in FRAMES_NAMES if name in parameters]
    return {names[0] if names else FRAMES_NAMES[0]: frames, "height": height, "width": width}


def frame_rate(pipeline: DiffusionPipeline, arguments: Mapping[str, Any]) -> int:
    """Frames per second of a pipeline's videos: what its call is given or has by default, else its model's usual ones.

    Args:
        pipeline: the model.
        arguments: of its call, by name.
    """
    parameters = inspect.signature(type(pipeline).__call__).parameters
    for name in RATE_NAMES:
        rate = arguments.get(name, parameters[name].default) if name in parameters else None
        if isinstance(rate, int | float) and rate >= 1:
            return round(rate)
    return usual_rate(type(pipeline).__name__)


def batches(prompts: Sequence[Prompt], batch_size: int) -> Iterator[list[Prompt]]:
    """Prompts in batches of one content class each, in an order that depends on the prompts alone."""
    ordered = sorted(prompts, key=lambda prompt: prompt.content)
    for _, group in groupby(ordered, key=lambda prompt: prompt.content):
        same = list(group)
        for start in range(0, len(same), batch_size):
            yield same[start : start + batch_size]


def rounds(prompts: Sequence[Prompt], batch_size: int) -> list[list[list[Prompt]]]:
    """Batches of one content class each, in rounds of as many batches as there are classes, in chance order.

    Classes come in proportion to their numbers of prompts, so that after each round what was seen is as mixed as the whole.
    """
    by_content: dict[str, list[list[Prompt]]] = {}
    for batch in batches(in_chance_order(prompts), batch_size):
        by_content.setdefault(batch[0].content, []).append(batch)
    placed = [((number + 0.5) / len(own), batch) for own in by_content.values() for number, batch in enumerate(own)]
    ordered = [batch for _, batch in sorted(placed, key=itemgetter(0))]
    return [ordered[start : start + len(by_content)] for start in range(0, len(ordered), len(by_content))]


def generate(pipeline: DiffusionPipeline, prompts: Sequence[Prompt], settings: Settings) -> Generation:
    """One call of the pipeline for all prompts.

    Raises:
        ModelError: the pipeline refuses its arguments or fails, or does not return one video for each prompt.
        StudyError: no more videos may be generated.
    """
    if settings.meter is not None:
        settings.meter.add(len(prompts), settings.steps)
    device = execution_device(pipeline)
    generators = [torch.Generator().manual_seed(prompt.seed) for prompt in prompts]
    texts = [prompt.prompt for prompt in prompts]
    began = now(device)
    with as_error(ModelError, f"{type(pipeline).__name__} failed"):
        arguments = dict(settings.arguments)
        if isinstance(arguments.get("image"), str):
            arguments["image"] = load_image(arguments["image"])
            began = now(device)
        frames = pipeline(
            # Some pipelines take no lists.
            prompt=texts if len(prompts) > 1 else texts[0],
            num_inference_steps=settings.steps,
            generator=generators if len(prompts) > 1 else generators[0],
            output_type="np",
            **arguments,
        ).frames
        seconds = now(device) - began
        is_finite = all(bool(np.isfinite(video).all()) for video in frames)
        videos = [np.round(np.where(np.isfinite(video), video, 0) * 255).astype(np.uint8) for video in frames]
    if len(videos) != len(prompts):
        raise ModelError(
            f"{type(pipeline).__name__} made {len(videos)} videos for {len(prompts)} prompts; an argument asks for several, "
            "for example num_videos_per_prompt: leave it out"
        )
    return Generation(videos=videos, seconds=seconds, is_finite=is_finite)


def generate_reference(pipeline: DiffusionPipeline, prompts: Sequence[Prompt], settings: Settings) -> Generation:
    """One call of the pipeline without a policy, whose videos others are compared with.

    Raises:
        ModelError: as `generate`, or a frame is not finite: all that is compared with it would be nonsense.
    """
    generation = generate(pipeline, prompts, settings)
    if not generation.is_finite:
        raise ModelError(
            f"{type(pipeline).__name__} makes videos that are not finite, without any policy: does its precision "
            f"({str(pipeline.dtype).removeprefix('torch.')}) suit it?"
        )
    return generation
