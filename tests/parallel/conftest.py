import json
import sys
from pathlib import Path

import pytest

from pabtune.parallel.launch import launch

ROOT = Path(__file__).parent.parent.parent
WORKER = Path(__file__).parent / "worker.py"


@pytest.fixture
def together(tmp_path, monkeypatch):
    """Runs a case of `worker.py` in so many processes; what each found."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def run(processes: int, case: str) -> list[list[dict]]:
        launch(processes, [sys.executable, str(WORKER), str(tmp_path / "found.json"), case])
        return [json.loads((tmp_path / f"found-{rank}.json").read_text()) for rank in range(processes)]

    return run


def check(rows: list[dict], tolerance: float = 1e-5) -> None:
    """The same video, nothing left behind, and what torch saw leave is what was counted and what was predicted."""
    assert rows
    for row in rows:
        assert row["error"] < tolerance, row
        assert row["restored"] == 0, row
        assert row["sent"] == row["dispatched"], row
        if row["predicted"]:
            calls = [{name: sent for name, sent in call.items() if sent != [0, 0]} for call in row["calls"]]
            predicted = [{name: sent for name, sent in call.items() if sent != [0, 0]} for call in row["predicted"]]
            assert calls == predicted, row
