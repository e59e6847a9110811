"""A small Wan with blocks enough to skip some, and how the tests of methods run it."""

from functools import partial

import numpy as np
from diffusers import WanPipeline

import pabtune
from pabtune.methods.method import Recordings
from pabtune.records.prompts import Prompt
from pabtune.tuning.generation import OWN_ARGUMENTS, Settings
from tests.pipelines import wan
from tests.pipelines.cases import run

STEPS, LAYERS = 12, 4
draw = partial(run, name="wan-2.1", num_inference_steps=STEPS)


def build() -> WanPipeline:
    pipeline = wan.wan21()
    pipeline.transformer = wan.transformer(num_layers=LAYERS)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def recordings(pipeline: WanPipeline, count: int = 1) -> Recordings:
    arguments = {key: value for key, value in wan.CALL.items() if key not in OWN_ARGUMENTS}
    prompts = [Prompt(prompt=f"a cat on hill {seed}", content="any", seed=seed) for seed in range(count)]
    settings = Settings(steps=STEPS, arguments=arguments)
    return Recordings(pipeline=pipeline, batches=[[each] for each in prompts], settings=settings)


def under(pipeline: WanPipeline, policy) -> tuple[np.ndarray, dict[str, tuple[int, ...]]]:
    """What a run under a policy draws, and the steps that computed, by branch."""
    with pabtune.broadcast(pipeline, policy) as active:
        frames = draw(pipeline)
    return frames, {branch: steps for (_, branch), steps in active.computed_steps.items()}
