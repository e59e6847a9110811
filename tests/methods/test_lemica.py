"""LeMiCa's path over segment errors."""

from itertools import combinations, pairwise

import numpy as np
import pytest

from pabtune.methods.lemica import minimax_path
from pabtune.records.errors import PolicyError


def brute_force(errors: np.ndarray, count: int) -> list[float]:
    """The smallest list of segment errors, largest first, over all sets of steps."""
    steps = len(errors)
    found = []
    for between in combinations(range(1, steps - 1), count - 2):
        path = (0, *between, steps - 1)
        found.append(sorted((errors[a, b] for a, b in pairwise(path)), reverse=True))
    return min(found)


def segments(errors: np.ndarray, path: tuple[int, ...]) -> list[float]:
    return sorted((errors[a, b] for a, b in pairwise(path)), reverse=True)


@pytest.mark.parametrize("count", [2, 3, 5, 8, 10])
@pytest.mark.parametrize("seed", range(4))
def test_the_path_is_the_best_of_all(count, seed) -> None:
    rng = np.random.default_rng(seed)
    errors = np.round(rng.random((10, 10)) * 8) / 8  # with ties, which the next worst segment decides
    path = minimax_path(errors, count)
    assert len(path) == count
    assert segments(errors, path) == brute_force(errors, count)


def test_the_worst_segment_counts_not_the_sum() -> None:
    errors = np.full((4, 4), 9.0)
    errors[0, 1], errors[1, 3] = 0.0, 5.0  # sum 5, worst 5
    errors[0, 2], errors[2, 3] = 3.0, 3.0  # sum 6, worst 3
    assert minimax_path(errors, 3) == (0, 2, 3)


def test_segments_that_were_not_measured_are_not_taken() -> None:
    errors = np.full((6, 6), np.inf)
    for step in range(5):
        errors[step, step + 1] = 0.0
    errors[1, 3] = 1.0
    assert minimax_path(errors, 5) == (0, 1, 3, 4, 5)
    with pytest.raises(PolicyError, match="no schedule of 3 computed steps"):
        minimax_path(errors, 3)
