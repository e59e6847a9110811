"""cache-dit's presets (steps_mask in https://github.com/vipshop/cache-dit 1.5): fixed masks, from slow to ultra.

Templates of 28 steps say how many steps in turn compute and hold; for more steps they are stretched, for fewer cut at their
end. The last step computes.
"""

from collections.abc import Mapping
from itertools import chain, zip_longest

TEMPLATE_STEPS, FEWEST_STEPS = 28, 16
"""Steps of the templates, and the fewest that they are cut to: masks for distilled models are other ones."""

TEMPLATES: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "slow": ((8, 3, 3, 2, 1, 1), (1, 2, 2, 2, 3)),
    "medium": ((6, 2, 2, 2, 2, 1), (1, 3, 3, 3, 3)),
    "fast": ((6, 1, 1, 1, 1, 1), (1, 3, 4, 5, 4)),
    "ultra": ((4, 1, 1, 1, 1), (2, 5, 6, 7)),
}
"""Numbers of steps that compute, and that are held after each of them."""


def computed_steps(preset: str, steps: int) -> tuple[int, ...]:
    """The steps that compute.

    Args:
        preset: `slow`, `medium`, `fast` or `ultra`.
        steps: of the run, 16 or more.
    """
    computed, held = (list(bins) for bins in TEMPLATES[preset])
    if steps > TEMPLATE_STEPS:
        _stretch(computed, held, steps)
    _cut(computed, held, steps)
    runs = chain.from_iterable(zip_longest(computed, held, fillvalue=0))
    mask = [index % 2 == 0 for index, run in enumerate(runs) for _ in range(run)]
    return tuple(step for step, computes in enumerate(mask) if computes or step == steps - 1)


def _stretch(computed: list[int], held: list[int], steps: int) -> None:
    """Adds half of the ratio of steps to each bin in turn, at least 1, until they suffice."""
    growth = steps / TEMPLATE_STEPS * 0.5
    more = [[max(int(size * growth), 1) for size in bins] for bins in (computed, held)]
    while True:
        for index in range(min(len(computed), len(held))):
            for bins, added in zip((computed, held), more, strict=True):
                bins[index] += added[index]
                if sum(computed) + sum(held) >= steps:
                    return
        computed[-1] += 1
        if sum(computed) + sum(held) >= steps:
            return


def _cut(computed: list[int], held: list[int], steps: int) -> None:
    """Takes steps from the last bins in turn, those that are held first."""
    while True:
        for bins in (held, computed):
            if sum(computed) + sum(held) <= steps:
                return
            if bins:
                bins[-1] -= 1
                if bins[-1] == 0:
                    bins.pop()
