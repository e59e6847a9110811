"""Captions of held-out scenes, which training never saw, for profiling and evaluation."""

import numpy as np

from pabtune.models.shapes.captions import describe
from pabtune.models.shapes.world import MOTIONS, Scene, scenes
from pabtune.records.prompts import Prompt
from pabtune.records.splits import Part, split_of


def sample_prompts(count: int, seed: int, part: Part | None = None) -> list[Prompt]:
    """Samples distinct captions of held-out scenes; content classes are equally frequent, motions nearly so.

    Args:
        count: number of captions.
        seed: seed of the sampling.
        part: of the split that they are taken from; None = any.
    """
    rng = np.random.default_rng(seed)
    pools: dict[str, dict[str, list[Scene]]] = {"still": {}, "slow": {}, "fast": {}}
    for scene in scenes("held-out"):
        pools[scene.content].setdefault(scene.motion or "", []).append(scene)
    prompts: dict[str, Prompt] = {}
    while len(prompts) < count:
        content = list(pools)[len(prompts) % len(pools)]
        motions = [motion for motion in MOTIONS if motion in pools[content]]
        candidates = pools[content][motions[rng.integers(len(motions))]]
        caption = describe(candidates[rng.integers(len(candidates))], rng)
        if part is None or split_of(caption) == part:
            prompts.setdefault(caption, Prompt(prompt=caption, content=content))
    return list(prompts.values())
