"""DPCache's schedule."""

from itertools import combinations

import numpy as np
import pytest
import torch

from pabtune.methods.dpcache import FIRST, DPCache, best_schedule, path_costs, taylor_factors
from pabtune.methods.method import Recordings
from pabtune.records.errors import ModelError
from pabtune.tuning.generation import Settings
from tests.conftest import make_pipeline

STEPS = 10


def cost_of(costs: np.ndarray, computed: tuple[int, ...]) -> float:
    """Summed cost of a mask: of each computed step, with the one before it, until the next one or the end."""
    nodes = (*computed, costs.shape[2] - 1)
    return sum(costs[a, b, c] for a, b, c in zip(nodes, nodes[1:], nodes[2:], strict=False))


@pytest.mark.parametrize("count", [4, 5, 6, 8])
@pytest.mark.parametrize("seed", range(3))
def test_the_schedule_is_the_best_of_all_masks(count, seed) -> None:
    costs = np.random.default_rng(seed).random((STEPS, STEPS, STEPS + 1))
    first = tuple(range(FIRST))
    masks = [(*first, *rest) for rest in combinations(range(FIRST, STEPS), count - FIRST)]
    found = best_schedule(costs, count)
    assert found in masks
    assert cost_of(costs, found) == pytest.approx(min(cost_of(costs, mask) for mask in masks))


def test_all_steps_or_only_the_first_ones_leave_no_choice() -> None:
    costs = np.random.default_rng(0).random((STEPS, STEPS, STEPS + 1))
    assert best_schedule(costs, STEPS) == tuple(range(STEPS))
    assert best_schedule(costs, FIRST) == tuple(range(FIRST))


def test_costs_add_up_the_error_of_a_forecast_along_the_line_through_both_anchors() -> None:
    outputs = [torch.tensor([float(step**2)]) for step in range(6)]
    costs = path_costs(outputs)
    # From 1 and 3 (values 1, 9; slope 4): 13 at 4 where it is 16, 17 at 5 where it is 25.
    assert costs[1, 3, 4] == pytest.approx(3.0)
    assert costs[1, 3, 5] == pytest.approx(3.0 + 8.0)
    assert costs[1, 3, 6] == pytest.approx(3.0 + 8.0)  # the end: no step is there to be wrong at
    straight = path_costs([torch.tensor([2.0 * step]) for step in range(6)])
    assert np.nanmax(np.where(np.isfinite(straight), straight, np.nan)) == pytest.approx(0.0, abs=1e-6)


def test_factors_forecast_a_straight_line_exactly() -> None:
    computed = (0, 1, 2, 5)
    factors = taylor_factors(computed, 8)
    assert [len(each) for each in factors] == [0, 0, 0, 1, 1, 0, 1, 1]
    values = {step: 3.0 * step + 1.0 for step in range(8)}
    for step, each in enumerate(factors):
        if each:
            *_, before, last = [done for done in computed if done < step]
            assert values[last] + each[0] * (values[last] - values[before]) == pytest.approx(values[step])


def test_a_run_whose_steps_all_compute_is_refused() -> None:
    settings = Settings(steps=FIRST)
    with pytest.raises(ModelError, match="for 4 steps and more"):
        DPCache().calibrate(Recordings(pipeline=make_pipeline(), batches=(), settings=settings), (0.5,))
