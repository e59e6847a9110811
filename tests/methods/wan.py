"""A small Wan with blocks enough to skip some, and how the tests of methods run it."""

from functools import partial

import numpy as np
from diffusers import WanPipeline
from torch import nn

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


def by_diffusers(apply, config) -> tuple[np.ndarray, dict[str, tuple[int, ...]]]:
    """What a run with diffusers' own hooks draws, and the steps in which the middle of the network really computed."""
    pipeline = build()
    computed: dict[str, list[int]] = {"cond": [], "uncond": []}
    calls, inside = [], []
    inside_attention = pipeline.transformer.blocks[LAYERS - 1].attn1.to_q

    def note_inside(module: nn.Module, args: object) -> None:
        inside.append(len(calls))

    def note_call(module: nn.Module, args: object, output: object) -> None:
        calls.append(None)

    inside_attention.register_forward_pre_hook(note_inside)
    pipeline.transformer.register_forward_hook(note_call)
    apply(pipeline.transformer, config)
    frames = draw(pipeline)
    for number in inside:
        computed[("cond", "uncond")[number % 2]].append(number // 2)
    return frames, {branch: tuple(steps) for branch, steps in computed.items()}
