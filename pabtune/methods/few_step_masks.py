"""cache-dit's presets for any number of steps: those of `methods/scm.py`, and other ones for distilled models.

Below 16 steps cache-dit takes other templates, and of fewer than 8 it knows 4 and 6 alone.
"""

from collections.abc import Mapping

from pabtune.methods.scm import FEWEST_STEPS, TEMPLATES, computed_steps
from pabtune.records.errors import PolicyError

FEWEST_CUT = 10
"""Fewest steps that the masks of 15 steps are cut to; the last step computes."""

FEW_STEPS: Mapping[int, tuple[str, ...]] = {
    4: ("1101",) * 4,
    6: ("111001",) * 4,
    8: ("11111011", "11110101", "11101001", "11001001"),
    9: ("111110111", "111110101", "111101001", "111001001"),
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
    template = max(FEW_STEPS) if steps >= FEWEST_CUT else steps
    if template not in FEW_STEPS:
        raise PolicyError(f"cache-dit has no mask {preset!r} for {steps} steps: only for 4, 6, and 8 or more")
    mask = FEW_STEPS[template][list(TEMPLATES).index(preset)]
    return tuple(sign == "1" or step == steps - 1 for step, sign in enumerate(mask[:steps]))
