"""cache-dit's presets as its code computes them."""

from importlib.util import find_spec

import pytest

from pabtune.planning.scm import TEMPLATES, computed_steps, preset_mask
from pabtune.records.errors import PolicyError


@pytest.mark.parametrize(("steps", "counts"), [(28, (18, 15, 11, 8)), (50, (38, 29, 20, 14)), (20, (15, 12, 8, 5))])
def test_so_many_steps_compute(steps, counts) -> None:
    """Those of cache-dit 1.5.3."""
    assert tuple(len(computed_steps(preset, steps)) for preset in TEMPLATES) == counts


def test_the_mask_of_28_steps_is_published() -> None:
    mask = "".join("01"[step in computed_steps("slow", 28)] for step in range(28))
    assert mask == "1111111101110011100110010001"


@pytest.mark.skipif(find_spec("cache_dit") is None, reason="cache-dit is not installed: pip install 'pabtune[peers]'")
@pytest.mark.filterwarnings("ignore")
def test_masks_are_those_of_cache_dit() -> None:
    import cache_dit  # noqa: PLC0415, only where it is installed

    for steps in range(16, 151):
        for preset in TEMPLATES:
            mask = cache_dit.steps_mask(mask_policy=preset, total_steps=steps)
            assert computed_steps(preset, steps) == tuple(step for step, computes in enumerate(mask) if computes)


def test_long_runs_take_no_time_and_longer_ones_are_refused() -> None:
    """40,000 steps took 21 seconds."""
    assert len(preset_mask("fast", 10_000)) == 10_000
    with pytest.raises(PolicyError, match="no run has more than 10000"):
        preset_mask("fast", 400_000)
