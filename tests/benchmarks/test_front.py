"""What `benchmarks/front.py` computes of measured values; no video is generated."""

from itertools import combinations

import numpy as np
import pytest

from benchmarks.front import expected_worst


@pytest.mark.parametrize("among", [1, 3, 7])
def test_the_expected_worst_is_the_mean_over_all_sets(among) -> None:
    values = [40.0, 31.5, 55.0, 38.0, 38.0, 60.0, 20.0]
    assert expected_worst(values, among) == pytest.approx(np.mean([min(each) for each in combinations(values, among)]))
