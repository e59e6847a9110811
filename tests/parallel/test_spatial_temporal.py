"""The paper's models, split over frames and over tokens, on several processes."""

import pytest

from tests.parallel.conftest import check


@pytest.mark.parametrize(
    ("processes", "names"),
    [(2, ["latte"]), pytest.param(2, [], marks=pytest.mark.slow), pytest.param(4, [], marks=pytest.mark.slow)],
)
def test_the_papers_models_are_shared_in_every_way(processes, names, together) -> None:
    """All of them where none is named, and guidance branches of pipelines that ask for one after the other."""
    for rows in together(processes, "others", names):
        check(rows)


@pytest.mark.parametrize("processes", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_lengths_that_are_not_divided_work(processes, together) -> None:
    for rows in together(processes, "lengths"):
        assert len(rows) == 4 * 2 * 3 * 2
        for row in rows:
            assert row["error"] < 1e-5, row
