"""SmoothCache's greedy rule."""

import numpy as np

from pabtune.methods.smoothcache import greedy_schedule

ERRORS = np.array(
    [
        # step  0    1    2    3    4    5    6    7
        [0.30, 0.10, 0.05, 0.05, 0.05, 0.10, 0.30, np.nan],  # against one step later
        [0.50, 0.20, 0.10, 0.15, 0.20, 0.40, np.nan, np.nan],  # two
        [0.60, 0.30, 0.25, 0.30, 0.35, np.nan, np.nan, np.nan],  # three
    ]
)


def test_the_largest_lookahead_within_the_threshold_is_skipped() -> None:
    """By hand, α = 0.1: 0 fails; 1 skips one (2); 3 skips one (4); 5 skips one (6); 7 is the last."""
    assert greedy_schedule(ERRORS, 0.1) == (0, 1, 3, 5, 7)


def test_a_larger_threshold_takes_longer_leaps() -> None:
    """By hand, α = 0.2: 0 fails; 1 skips two (2, 3); 4 skips two (5, 6); 7."""
    assert greedy_schedule(ERRORS, 0.2) == (0, 1, 4, 7)


def test_a_longer_lookahead_counts_even_where_a_shorter_one_fails() -> None:
    errors = np.array([[0.9, 0.9, 0.9, np.nan], [0.1, 0.9, np.nan, np.nan]])
    assert greedy_schedule(errors, 0.5) == (0, 3)


def test_the_last_step_computes_even_inside_a_leap() -> None:
    assert greedy_schedule(np.array([[0.0, 0.0, 0.0, np.nan]]), 0.5) == (0, 2, 3)


def test_without_any_error_in_reach_all_compute() -> None:
    assert greedy_schedule(ERRORS, 0.01) == tuple(range(8))
