"""Small real models: the real classes with random weights, and what tests share."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.utils import logging as diffusers_logging

from pabtune.models.shapes.captions import VOCABULARY
from pabtune.models.shapes.pipeline import ShapesPipeline
from pabtune.models.shapes.text import WordEncoder
from pabtune.models.stdit3 import STDiT3Transformer3DModel
from pabtune.records.policies import Policy
from pabtune.records.prompts import Prompt
from pabtune.records.rules import Rule
from pabtune.runtime.noise_levels import noise_levels
from tests.tuning.postgres import server

STEPS = 8
PROMPT = "a red square moves slowly to the left"
PROMPTS = [
    Prompt(prompt=PROMPT, content="slow", seed=1),
    Prompt(prompt="a blue circle stands still on black", content="still", seed=2),
    Prompt(prompt="a green cross bounces quickly", content="fast", seed=3),
    Prompt(prompt="a pink triangle rises gently", content="slow", seed=4),
]

diffusers_logging.disable_progress_bar()


def make_transformer(seed: int = 0) -> STDiT3Transformer3DModel:
    torch.manual_seed(seed)
    return STDiT3Transformer3DModel(
        depth=2, hidden_size=24, num_heads=2, patch_size=(1, 4, 4), in_channels=4, pred_sigma=False,
        caption_channels=16, model_max_length=24, input_sq_size=24,
    ).eval()  # fmt: skip


def make_pipeline(seed: int = 0) -> ShapesPipeline:
    """The embedded model's classes, small and untrained."""
    transformer = make_transformer(seed)
    text_encoder = WordEncoder(VOCABULARY, 16, 24)
    pipeline = ShapesPipeline(text_encoder, transformer, FlowMatchEulerDiscreteScheduler(shift=3.0))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def draw(pipeline: ShapesPipeline, prompt: str | list[str] = PROMPT, seed: int = 0, **arguments) -> np.ndarray:
    count = 1 if isinstance(prompt, str) else len(prompt)
    generators = [torch.Generator().manual_seed(seed + index) for index in range(count)]
    arguments = {"num_inference_steps": STEPS} | arguments
    return pipeline(prompt, generator=generators, **arguments).frames


def pyramid(steps: int = STEPS) -> Policy:
    """A policy with every kind, different ranges, a layer choice and both anchors."""
    stop = steps - 1
    return Policy(
        name="pyramid",
        rules=(
            Rule(kind="spatial", range=2, window=(2, stop)),
            Rule(kind="temporal", range=3, window=(1, stop)),
            Rule(kind="cross", range=4, window=(1, steps), anchor="start"),
            Rule(kind="mlp", range=2, window=(3, stop), layers=(1,)),
        ),
    )


@pytest.fixture
def pipeline() -> ShapesPipeline:
    return make_pipeline()


@pytest.fixture(scope="session")
def sigmas() -> tuple[float, ...]:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(sigmas=np.linspace(1, 1 / STEPS, STEPS))
    return noise_levels(scheduler)


@pytest.fixture
def postgres() -> Iterator[str]:
    """URL of an empty database of PostgreSQL."""
    pytest.importorskip("psycopg", reason="the driver is missing: pip install 'pabtune[postgres]'")
    with server() as url:
        yield url


def around(transformer, pipeline: ShapesPipeline) -> ShapesPipeline:
    """A pipeline of its own around a transformer that others use too."""
    made = ShapesPipeline(pipeline.text_encoder, transformer, FlowMatchEulerDiscreteScheduler(shift=3.0))
    made.set_progress_bar_config(disable=True)
    return made
