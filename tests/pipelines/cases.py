"""All small pipelines, and how tests call them."""

from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from torch import nn

from pabtune.records.policies import Policy
from pabtune.records.rules import Rule
from pabtune.tuning.generation import OWN_ARGUMENTS
from tests.pipelines.parts import PROMPT, Case

FILES = [
    path.stem
    for path in sorted(Path(__file__).parent.glob("*.py"))
    if not path.stem.startswith(("test_", "case", "conf"))
]
CASES: dict[str, Case] = {
    name: case
    for file in FILES
    for name, case in getattr(import_module(f"tests.pipelines.{file}"), "CASES", {}).items()
}
COUNTED = [name for name, case in CASES.items() if not case.is_asynchronous]
"""Cases whose model calls come step by step, so that they can be counted."""


def cases(fast: Sequence[str], among: Iterable[str] = CASES) -> list:
    """Parameters of a test on every case; those that are not `fast` are marked slow."""
    return [name if name in fast else pytest.param(name, marks=pytest.mark.slow) for name in among]


EVERYDAY = (
    "cogvideox-ddim", "hunyuan-framepack", "hunyuan-true-cfg", "kandinsky-5", "latte", "ltx-2", "mochi", "open-sora-1.2",
    "skyreels-v2-forcing-asynchronous", "wan-2.1", "wan-2.2",
)  # fmt: skip
"""Cases that differ in how they guide, loop, split and change: what the default tests run where each case takes its time."""


def run(
    pipeline: DiffusionPipeline, name: str, prompt: str | list[str] = PROMPT, seed: int | list[int] = 0, **changes
) -> np.ndarray:
    """One call; the result as an array."""
    case = CASES[name]
    arguments = {**case.call, **changes}
    if case.takes_prompt:
        arguments["prompt"] = prompt
    generator = (
        [torch.Generator().manual_seed(each) for each in seed]
        if isinstance(seed, list)
        else (torch.Generator().manual_seed(seed))
    )
    output = pipeline(generator=generator, **arguments)
    frames = output[0] if isinstance(output, tuple) else next(iter(output.values()))
    parts = frames if isinstance(frames, list) else [frames]
    return np.concatenate([np.asarray(part).ravel() for part in parts])


def arguments_of(name: str) -> dict[str, Any]:
    """Arguments of a call with two prompts, if the pipeline takes as many, besides those that tuning sets itself."""
    case = CASES[name]
    arguments = {**case.call, **(case.batch if case.takes_batches else {})}
    return {key: value for key, value in arguments.items() if key not in OWN_ARGUMENTS}


def policy(name: str) -> Policy:
    """Every kind of the case, with ranges, windows and anchors of its own."""
    steps = CASES[name].call["num_inference_steps"]
    rules = {
        "full": Rule(kind="full", range=2, window=(1, steps - 1)),
        "spatial": Rule(kind="spatial", range=2, window=(1, steps - 1)),
        "temporal": Rule(kind="temporal", range=3, window=(1, steps)),
        "cross": Rule(kind="cross", range=3, window=(1, steps), anchor="start"),
        "mlp": Rule(kind="mlp", range=2, window=(2, steps), layers=(1,)),
    }
    return Policy(name="every kind", rules=tuple(rules[kind] for kind in CASES[name].sites))


def idle(name: str) -> Policy:
    """Every kind, never broadcast."""
    steps = CASES[name].call["num_inference_steps"]
    return Policy(name="idle", rules=tuple(Rule(kind=kind, range=1, window=(0, steps)) for kind in CASES[name].sites))


class Aborted(Exception):
    """What a user's callback raises."""


def abort(pipeline: DiffusionPipeline, name: str, at_call: int) -> None:
    calls = []

    def count(module: nn.Module, args: object, output: object) -> None:
        calls.append(module)
        if len(calls) == at_call:
            raise Aborted

    handles = [each.register_forward_hook(count) for each in transformers_of(pipeline)]
    try:
        with pytest.raises(Aborted):
            run(pipeline, name)
    finally:
        for handle in handles:
            handle.remove()


def transformers_of(pipeline: DiffusionPipeline) -> list[nn.Module]:
    return [part for key, part in pipeline.components.items() if key.startswith("transformer") and part is not None]
