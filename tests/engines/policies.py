"""Policies for the tests of engines: a mask of ten steps for a Wan of four blocks, and what changes it."""

from typing import Any

from pabtune.records.policies import MadeFor, Policy
from pabtune.records.rules import Rule

COMPUTED = (0, 2, 5, 6, 8, 9)
BITS = [1, 0, 1, 0, 0, 1, 1, 0, 1, 1]
SIGMAS = tuple(1 - step / 10 for step in range(10))
LAYERS = 4
BEHIND_THE_FIRST = (1, 2, 3)


def made_for(model: str = "WanTransformer3DModel", names: tuple[str, ...] = ("transformer",), **changes) -> MadeFor:
    values: dict[str, Any] = {
        "model": model, "steps": 10, "sigmas": SIGMAS, "config": {name: {"num_layers": LAYERS} for name in names},
    }  # fmt: skip
    return MadeFor(**values | changes)


def held(layers: tuple[int, ...] | None = None, computed: tuple[int, ...] = COMPUTED, **changes) -> Policy:
    rule = Rule(kind="stack", compute=computed, layers=layers)
    return Policy(**{"name": "held", "rules": (rule,), "made_for": made_for()} | changes)
