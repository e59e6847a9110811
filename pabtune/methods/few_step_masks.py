"""cache-dit's presets for any number of steps: those of `methods/scm.py`, and other ones for distilled models.

Below 16 steps cache-dit takes other templates, and of fewer than 8 it knows 4 and 6 alone.
"""

from collections.abc import Mapping

from pabtune.methods.scm import FEWEST_STEPS, TEMPLATES, computed_steps
from pabtune.records.errors import PolicyError

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


def preset_mask(preset: str, steps: int) -> tuple[bool, ...]:
    """Per step, whether it computes.

    Args:
        preset: `slow`, `medium`, `fast` or `ultra`.
        steps: of the run.

    Raises:
        PolicyError: cache-dit has no mask for so few steps.
    """
    if steps >= FEWEST_STEPS:
        computed = computed_steps(preset, steps)
        return tuple(step in computed for step in range(steps))
    if steps not in FEW_STEPS:
        raise PolicyError(f"cache-dit has no mask {preset!r} for {steps} steps: only for 4, 6, and 8 or more")
    return tuple(sign == "1" for sign in FEW_STEPS[steps][list(TEMPLATES).index(preset)])
