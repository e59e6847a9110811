from dataclasses import replace

import numpy as np
import pytest

from pabtune.planning.curves import kind_curves, mean_of_known, mean_over_contents, rows_of
from pabtune.records.profiles import Profile
from pabtune.records.sites import Site
from tests.records.test_profiles import make_profile

SITES = tuple(Site(path=f"{kind}.{i}", kind=kind, layer=i) for kind in ("spatial", "mlp") for i in range(2))


def two_contents(steps: int = 12) -> Profile:
    """A profile whose outputs change a hundred times as much in the second content class."""
    profile = make_profile(steps)
    arrays = dict(profile.arrays)
    for measure in ("mse", "change", "distance"):
        arrays[measure] = np.concatenate([arrays[measure], 100 * arrays[measure]])
    return replace(profile, contents=("still", "fast"), prompts={"still": 2, "fast": 2}, arrays=arrays)


def test_curves_are_means_over_the_sites_of_a_kind() -> None:
    values = np.arange(12.0).reshape(4, 3)
    curves = kind_curves(values, SITES)
    assert {kind: curve.tolist() for kind, curve in curves.items()} == {
        "spatial": [1.5, 2.5, 3.5],
        "mlp": [7.5, 8.5, 9.5],
    }
    assert rows_of("mlp", SITES) == [2, 3]


def test_where_nothing_can_be_compared_everything_may_have_changed() -> None:
    values = np.array([[0.0, 1.0, np.nan, 4.0], [0.0, 3.0, np.nan, np.nan]])
    assert kind_curves(values, SITES[:2])["spatial"].tolist() == [0.0, 2.0, 4.0, 4.0]


def test_means_leave_out_what_is_not_known() -> None:
    values = np.array([[1.0, np.nan], [3.0, np.nan]])
    np.testing.assert_array_equal(mean_of_known(values, 0), [2.0, np.nan])
    assert mean_of_known(values, (0, 1)) == 2.0


@pytest.mark.parametrize("measure", ["mse", "change", "distance"])
def test_a_content_class_is_averaged_alone_or_with_the_others(measure) -> None:
    """Fault 27: windows of every class from the first class passed."""
    profile = two_contents()
    still, fast, both = (mean_over_contents(profile, measure, content) for content in ("still", "fast", None))
    np.testing.assert_allclose(still, profile.arrays[measure][0].mean(0), rtol=1e-5)
    np.testing.assert_allclose(fast, 100 * still, rtol=1e-5)
    np.testing.assert_allclose(both, 50.5 * still, rtol=1e-5)
