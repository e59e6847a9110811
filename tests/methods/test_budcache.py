"""BudCache's search of a mask."""

from math import exp

import numpy as np
import pytest

from pabtune.methods.budcache import FINAL_TEMPERATURE, FIRST_TEMPERATURE, accepts, search_mask, temperatures

TARGET = {0, 1, 4, 7, 10, 13, 16, 19}


def distance(computed: tuple[int, ...]) -> float:
    """How far each step of the target is from the closest computed one."""
    return float(sum(min(abs(step - other) for other in computed) for step in TARGET))


def test_a_better_mask_is_always_accepted_and_a_worse_one_by_chance() -> None:
    assert accepts(-1e-9, 1e-4, draw=0.999999)
    assert accepts(0.05, 0.1, draw=exp(-0.5) - 1e-6)
    assert not accepts(0.05, 0.1, draw=exp(-0.5) + 1e-6)
    assert not accepts(0.05, 1e-4, draw=1e-12)
    assert accepts(0.0, 1e-4, draw=0.999999)  # exp(0) = 1, and a draw is below it


def test_the_temperature_falls_by_the_same_ratio() -> None:
    falling = temperatures(200)
    assert falling[0] == pytest.approx(FIRST_TEMPERATURE)
    assert falling[-1] == pytest.approx(FINAL_TEMPERATURE)
    assert np.ptp(np.log(falling[1:] / falling[:-1])) == pytest.approx(0.0, abs=1e-9)


def test_the_mask_keeps_its_budget_and_its_first_steps() -> None:
    seen = []

    def loss(computed: tuple[int, ...]) -> float:
        seen.append(computed)
        return distance(computed)

    best = search_mask(loss, steps=20, count=8, seed=0)
    assert all(len(computed) == 8 and computed[:2] == (0, 1) for computed in seen)  # 0.3 of 8, rounded down
    assert len(seen) == len(set(seen)) <= 1 + 200 + 100
    assert distance(best) == min(map(distance, seen))
    assert distance(best) <= 1


def test_one_computed_step_is_the_first() -> None:
    assert search_mask(distance, steps=20, count=1, seed=0) == (0,)
    assert search_mask(distance, steps=20, count=20, seed=0) == tuple(range(20))
