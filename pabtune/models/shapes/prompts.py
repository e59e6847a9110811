"""Captions of held-out scenes, which training never saw, for profiling and evaluation."""

import numpy as np

from pabtune.models.shapes.captions import describe
from pabtune.models.shapes.world import MOTIONS, Scene, scenes
from pabtune.records.errors import PromptError
from pabtune.records.prompts import Prompt
from pabtune.records.splits import Part, split_of

PATIENCE = 20_000
"""Draws in a row without a new caption after which there are taken to be no more."""


def sample_prompts(count: int, seed: int, part: Part | None = None) -> list[Prompt]:
    """Samples distinct captions of held-out scenes; content classes are equally frequent, motions nearly so.

    Args:
        count: number of captions.
        seed: seed of the sampling.
        part: of the split that they are taken from; None = any.

    Raises:
        PromptError: there are not so many distinct captions.
    """
    rng = np.random.default_rng(seed)
    pools: dict[str, dict[str, list[Scene]]] = {"still": {}, "slow": {}, "fast": {}}
    for scene in scenes("held-out"):
        pools[scene.content].setdefault(scene.motion or "", []).append(scene)
    prompts, draws = dict[str, Prompt](), 0
    while len(prompts) < count:
        content = list(pools)[len(prompts) % len(pools)]
        motions = [motion for motion in MOTIONS if motion in pools[content]]
        candidates = pools[content][motions[rng.integers(len(motions))]]
        caption = describe(candidates[rng.integers(len(candidates))], rng)
        draws += 1
        if caption not in prompts and (part is None or split_of(caption) == part):
            prompts[caption], draws = Prompt(prompt=caption, content=content), 0
        if draws > PATIENCE:
            where = "" if part is None else f" of the part {part!r}"
            raise PromptError(
                f"the embedded world has no {count} distinct captions{where}: no {content} one is left after "
                f"{len(prompts)}; ask for no more than these"
            )
    return list(prompts.values())
