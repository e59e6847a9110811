"""Captions to measure with: of scenes that training never saw."""

import numpy as np

from pabtune.models.shapes.captions import describe
from pabtune.models.shapes.world import MOTIONS, Scene, scenes
from pabtune.records.prompts import Prompt


def sample_prompts(count: int, seed: int) -> list[Prompt]:
    """Distinct captions of held-out scenes, every content class equally often, every motion about so.

    Args:
        count: how many.
        seed: other seeds give other captions.
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
        prompts.setdefault(caption, Prompt(prompt=caption, content=content))
    return list(prompts.values())
