"""Small pipelines that run a policy here, and its export in the engine's own client."""

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
from diffusers import DiffusionPipeline
from torch import nn

import pabtune
from pabtune.engines.blocks import block_lists, held_layers
from pabtune.engines.engine import ENGINES
from pabtune.engines.export import Export
from pabtune.records.policies import MadeFor, Policy
from pabtune.records.rules import Rule
from pabtune.runtime.noise_levels import noise_levels
from pabtune.runtime.targets import Target
from tests.pipelines import cogvideox, hunyuan, ltx, mochi, wan
from tests.pipelines.cases import CASES, run, transformers_of

STEPS, BOUNDARY = 10, 0.8
COMPUTED = (0, 2, 5, 6, 8, 9)
ROUNDING = 2e-6
"""Relative, of the largest value; a mask that is off by a step is off by 1e-3 and more."""

FAMILIES: dict[str, tuple[ModuleType, dict[str, int]]] = {
    "wan-2.1": (wan, {"num_layers": 4}),
    "wan-2.2": (wan, {"num_layers": 4}),
    "hunyuan-true-cfg": (hunyuan, {"num_layers": 3, "num_single_layers": 3}),
    "hunyuan-distilled": (hunyuan, {"num_layers": 3, "num_single_layers": 3}),
    "cogvideox-ddim": (cogvideox, {"num_layers": 4}),
    "ltx": (ltx, {"num_layers": 4}),
    "mochi": (mochi, {"num_layers": 4}),
}
"""Cases, and what makes their transformers deep enough to hold several blocks; of others one of two is held."""


def build(name: str) -> DiffusionPipeline:
    pipeline = CASES[name].build()
    pipeline.set_progress_bar_config(disable=True)
    if name not in FAMILIES:
        return pipeline
    module, depth = FAMILIES[name]
    pipeline.transformer = module.transformer(**depth)
    if getattr(pipeline, "transformer_2", None) is not None:
        pipeline.transformer_2 = module.transformer(seed=1, **depth)
    return pipeline


def draw(pipeline: DiffusionPipeline, name: str) -> np.ndarray:
    return run(pipeline, name, num_inference_steps=STEPS)


def made_for(pipeline: DiffusionPipeline, name: str) -> MadeFor:
    """As a profile of the pipeline says it."""
    draw(pipeline, name)
    target = Target.of(pipeline)
    arguments = {key: value for key, value in CASES[name].call.items() if isinstance(value, int | float | str)}
    return MadeFor(
        model=target.model_class, steps=STEPS, config=target.config(), sigmas=noise_levels(pipeline.scheduler),
        settings={"arguments": arguments},
    )  # fmt: skip


def held(name: str, *, without_the_first: bool, computed: Sequence[int] = COMPUTED, **payload) -> Policy:
    """A stack of all blocks, or of all but the first of each list."""
    made = made_for(build(name), name)
    lists = block_lists(made.model, made.config["transformer"])
    layers = held_layers(ENGINES["cache-dit"], lists) if without_the_first else None
    rule = Rule(kind="stack", compute=tuple(computed), layers=layers, **payload)
    return Policy(name="held", rules=(rule,), made_for=made)


def drawn_here(name: str, policy: Policy) -> np.ndarray:
    pipeline = build(name)
    with pabtune.broadcast(pipeline, policy):
        return draw(pipeline, name)


def write(export: Export, folder: Path) -> Path:
    path = folder / f"policy{export.suffix}"
    path.write_text(export.text, encoding="utf-8")
    return path


def relative(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.abs(first - second).max() / np.abs(second).max())


def count_last_blocks(pipeline: DiffusionPipeline) -> list[str]:
    """The transformers whose last block computed, call by call, from now on."""
    calls: list[str] = []
    for index, transformer in enumerate(transformers_of(pipeline)):
        lists = block_lists(type(transformer).__name__, transformer.config)
        block = transformer.get_submodule(lists[-1].path)[-1]
        inside = next(module for module in block.modules() if isinstance(module, nn.Linear))
        inside.register_forward_pre_hook(lambda module, args, index=index: calls.append(f"transformer {index}"))
    return calls
