from pathlib import Path

import pytest

from tests.parallel.pool import Pool

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items) -> None:
    """Where tests are shared out, those of this folder stay in one process, which has the pool."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.xdist_group("parallel"))


@pytest.fixture(scope="session")
def pool():
    """Worker processes that all tests share."""
    pool = Pool()
    yield pool
    pool.close()


@pytest.fixture
def together(pool):
    """Runs a case of `worker.py` in several processes; returns the rows of each."""

    def run(processes: int, case: str, names: list[str] | tuple[str, ...] = ()) -> list[list[dict]]:
        return pool.run(processes, case, names)

    return run


def check(rows: list[dict], tolerance: float = 1e-5) -> None:
    """Checks that videos agree, that nothing is left behind, and that torch's traffic equals ours and the prediction."""
    assert rows
    for row in rows:
        assert row["error"] < tolerance, row
        assert row["restored"] == 0, row
        assert row["sent"] == row["dispatched"], row
        if row["predicted"]:
            calls = [{name: sent for name, sent in call.items() if sent != [0, 0]} for call in row["calls"]]
            predicted = [{name: sent for name, sent in call.items() if sent != [0, 0]} for call in row["predicted"]]
            assert calls == predicted, row
