"""Generating videos reproducibly: same prompt, seed and settings, same initial noise."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline
from numpy.typing import NDArray

from pabtune.records.prompts import Prompt
from pabtune.runtime.timing import now

Video = NDArray[np.uint8]
"""Frames of one video, (frames, height, width, 3)."""

BATCH_SIZE = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How videos are made.

    Attributes:
        steps: denoising steps.
        batch_size: prompts in one call of the pipeline.
        arguments: further arguments of the pipeline's call; `guidance_scale` is the common one.
    """

    steps: int
    batch_size: int = BATCH_SIZE
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """Videos of one call of a pipeline, and its wall time in seconds."""

    videos: list[Video]
    seconds: float


def batches(prompts: Sequence[Prompt], batch_size: int) -> Iterator[list[Prompt]]:
    """Prompts in batches of one content class each, in an order that depends on the prompts alone."""
    ordered = sorted(prompts, key=lambda prompt: prompt.content)
    for _, group in groupby(ordered, key=lambda prompt: prompt.content):
        same = list(group)
        for start in range(0, len(same), batch_size):
            yield same[start : start + batch_size]


def generate(pipeline: DiffusionPipeline, prompts: Sequence[Prompt], settings: Settings) -> Generation:
    """One call of the pipeline for all prompts."""
    device = pipeline._execution_device
    generators = [torch.Generator().manual_seed(prompt.seed) for prompt in prompts]
    began = now(device)
    frames = pipeline(
        prompt=[prompt.prompt for prompt in prompts],
        num_inference_steps=settings.steps,
        generator=generators,
        output_type="np",
        **settings.arguments,
    ).frames
    seconds = now(device) - began
    videos = [np.round(np.asarray(video) * 255).astype(np.uint8) for video in frames]
    return Generation(videos=videos, seconds=seconds)
