"""The content class that a run's first steps tell, on one process and on several."""

from collections.abc import Sequence
from contextlib import suppress
from functools import partial

import pabtune
from pabtune.parallel.mesh import Mesh
from pabtune.parallel.splitting import split
from pabtune.records.errors import PabtuneError
from pabtune.records.first_steps import FirstSteps
from pabtune.records.rules import Rule
from pabtune.runtime.first_steps import numbers_of
from pabtune.runtime.recorder import record
from pabtune.runtime.targets import Target
from pabtune.tuning.telling import FirstInputs
from tests.parallel.cases_pipelines import IN_TURNS, meshes_of_one_sample
from tests.parallel.comparing import error
from tests.parallel.predict_tokens import loaded
from tests.pipelines.cases import CASES, run


def first_steps(whole: Mesh, names: Sequence[str]) -> list[dict]:
    """The content class by the first steps, on one process and on all: each decides by itself, with another seed anew."""
    rows = []
    for layout, mesh in meshes_of_one_sample(whole):
        for name in names:
            if layout.branches > 1 and name not in IN_TURNS:
                continue
            pipeline, inputs = loaded(name), {}
            for seed in (0, 1, 2):
                inputs[seed] = FirstInputs(2)
                with suppress(PabtuneError):  # the run ends after its first steps
                    record(Target.of(pipeline), inputs[seed], partial(run, pipeline, name, seed=seed))
            sizes = {seed: float(numbers_of(each.latents, ("size@2",), None)[0, 0]) for seed, each in inputs.items()}
            used = by_size(sizes, (2, CASES[name].call["num_inference_steps"]))
            alone = [decided(pipeline, name, used, seed) for seed in sizes]
            sharded = split(pipeline, mesh)
            for seed, (expected, content) in zip(sizes, alone, strict=True):
                output, told = decided(pipeline, name, used, seed)
                rows.append({"name": name, "alone": content, "told": told, "error": error(output, expected)})
            sharded.remove()
    return rows


def by_size(sizes: dict[int, float], window: tuple[int, int]) -> pabtune.Policy:
    """Half of the way from the least to the largest size lies between two classes."""
    low, high = min(sizes.values()), max(sizes.values())
    slope = 8.0 / (high - low)
    weights = {"still": {"size@2": -slope}, "fast": {"size@2": slope}}
    bias = {"still": slope * (low + high) / 2, "fast": -slope * (low + high) / 2}
    return pabtune.Policy(
        name="by size",
        variants={
            "still": (Rule(kind="mlp", range=2, window=window),),
            "fast": (Rule(kind="stack", range=3, window=window),),
        },
        first_steps=FirstSteps(steps=2, frame_axis=None, bias=bias, weights=weights, margin=0.0),
    )


def decided(pipeline, name: str, used: pabtune.Policy, seed: int):
    """A run, and the class that its first steps told."""
    with pabtune.broadcast(pipeline, used, "auto") as active:
        return run(pipeline, name, seed=seed), active.summary()["content"]
