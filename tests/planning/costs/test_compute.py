import numpy as np
import pytest

from pabtune.planning.costs.compute import compute_fraction, predicted_seconds
from pabtune.planning.masks import ComputeMask
from pabtune.records.sites import Site

SITES = (Site(path="a", kind="spatial", layer=0), Site(path="b", kind="mlp", layer=0))
OTHER = Site(transformer="transformer_2", path="b", kind="mlp", layer=0)
MASK = ComputeMask(sites=SITES, compute=np.array([[True, False, False, True], [True, True, False, True]]))
SECONDS = np.array([[0.1, 0.1, 0.1, 9.0], [0.3, 0.2, 0.3, 0.3]])


def test_fractions_count_what_is_skipped() -> None:
    # Two skipped calls of 10 and one of 30, of four steps of 100.
    assert compute_fraction(MASK, (10, 30), 100) == pytest.approx(1 - 50 / 400)
    full = ComputeMask(sites=SITES, compute=np.ones((2, 4), dtype=bool))
    assert compute_fraction(full, (10, 30), 100) == 1.0


def test_time_is_full_time_less_skipped_sites() -> None:
    assert predicted_seconds(MASK, SECONDS, np.full(4, 1.0)) == pytest.approx(4 - 0.2 - 0.3)


def test_what_is_not_called_saves_nothing() -> None:
    """Site a belongs to a transformer that another one takes over from after the second step."""
    seconds = SECONDS.copy()
    seconds[0, 2:] = 0
    mask = ComputeMask(sites=(SITES[0], OTHER), compute=MASK.compute)
    assert predicted_seconds(mask, seconds, np.full(4, 1.0)) == pytest.approx(4 - 0.1 - 0.3)
    assert compute_fraction(mask.where_called(seconds > 0), (10, 30), 100) == pytest.approx(1 - 40 / 400)


def test_a_transformer_that_takes_over_saves_nothing_in_its_first_step() -> None:
    """It has nothing to broadcast yet, whatever the policy says."""
    seconds = SECONDS.copy()
    seconds[1, :2] = 0
    mask = ComputeMask(sites=(SITES[0], OTHER), compute=MASK.compute)
    assert not mask.compute[1, 2]
    assert predicted_seconds(mask, seconds, np.full(4, 1.0)) == pytest.approx(4 - 0.2)
    assert compute_fraction(mask.where_called(seconds > 0), (10, 30), 100) == pytest.approx(1 - 20 / 400)
