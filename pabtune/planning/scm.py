"""cache-dit's presets (steps_mask in https://github.com/vipshop/cache-dit 1.5): fixed masks, from slow to ultra.

Templates of 28 steps say how many steps in turn compute and hold; for more steps they are stretched, for fewer cut at their
end. The last step computes. Below 16 steps there are masks of their own for distilled models, and of fewer than 8 steps for 4
and 6 alone.
"""

from collections.abc import Mapping
from itertools import chain, zip_longest

from pabtune.records.errors import PolicyError

TEMPLATE_STEPS, FEWEST_STEPS = 28, 16
"""Steps of the templates, and the fewest that they are cut to: masks for distilled models are other ones."""

TEMPLATES: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "slow": ((8, 3, 3, 2, 1, 1), (1, 2, 2, 2, 3)),
    "medium": ((6, 2, 2, 2, 2, 1), (1, 3, 3, 3, 3)),
    "fast": ((6, 1, 1, 1, 1, 1), (1, 3, 4, 5, 4)),
    "ultra": ((4, 1, 1, 1, 1), (2, 5, 6, 7)),
}
"""Numbers of steps that compute, and that are held after each of them."""


FEW_STEPS: Mapping[int, tuple[str, ...]] = {
    4: ("1101",) * 4,
    6: ("111001",) * 4,
    8: ("11111011", "11110101", "11101001", "11001001"),
    9: ("111110111", "111110101", "111101001", "111001001"),
    10: ("1111011111", "1111011011", "1110100101", "1101001001"),
    11: ("11110110111", "11110110101", "11101001001", "11010010001"),
    12: ("111101101111", "111101101001", "111010010011", "110100100011"),
    13: ("1111011011011", "1111011010011", "1110100100101", "1101001000101"),
    14: ("11110110110111", "11110110100101", "11101001001001", "11010010001001"),
    15: ("111101101101101", "111101101001001", "111010010010001", "110100100010001"),
}
"""Masks of slow, medium, fast and ultra, by the number of steps."""


MOST_STEPS = 10_000
"""More than any run has."""


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


def preset_mask(preset: str, steps: int) -> tuple[bool, ...]:
    """Per step, whether it computes.

    Args:
        preset: `slow`, `medium`, `fast` or `ultra`.
        steps: of the run.

    Raises:
        PolicyError: cache-dit has no mask for so few steps.
    """
    if steps >= FEWEST_STEPS:
        if steps > MOST_STEPS:
            raise PolicyError(f"a mask {preset!r} for {steps} steps: no run has more than {MOST_STEPS}")
        computed = frozenset(computed_steps(preset, steps))
        return tuple(step in computed for step in range(steps))
    if steps not in FEW_STEPS:
        raise PolicyError(f"cache-dit has no mask {preset!r} for {steps} steps: only for 4, 6, and 8 or more")
    return tuple(sign == "1" for sign in FEW_STEPS[steps][list(TEMPLATES).index(preset)])
