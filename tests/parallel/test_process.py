import json

import pytest

from pabtune.parallel.process import (
    ERROR_FILE,
    OUTCOMES,
    has_outcome,
    is_launched,
    leave_outcome,
    local_device,
    rank,
    report_failure,
    world_size,
)  # fmt: skip


def test_one_process_of_a_cluster_is_alone(monkeypatch) -> None:
    """Images for clusters set RANK and WORLD_SIZE also where there is one process."""
    for processes, expected in (("1", False), ("2", True)):
        monkeypatch.setenv("RANK", "0")
        monkeypatch.setenv("WORLD_SIZE", processes)
        assert is_launched() == expected
    monkeypatch.delenv("RANK")
    assert not is_launched()
    assert (rank(), world_size()) == (0, 1)


def test_each_process_has_the_gpu_of_its_number(monkeypatch) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert local_device("cuda") == "cuda"
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert [local_device(name) for name in ("cuda", "cuda:1", "cpu")] == ["cuda:3", "cuda:1", "cpu"]


def test_a_reason_is_left_where_a_launcher_looks(monkeypatch, tmp_path) -> None:
    monkeypatch.delenv(ERROR_FILE, raising=False)
    report_failure("nobody looks")
    monkeypatch.setenv(ERROR_FILE, str(tmp_path / "error.json"))
    report_failure("broken on purpose")
    assert json.loads((tmp_path / "error.json").read_text())["message"]["message"] == "broken on purpose"


@pytest.mark.parametrize(
    ("worker", "code", "left", "exits"),
    [
        ("0", 0, {"code": 0, "reason": ""}, 0),
        ("0", 1, {"code": 1, "reason": ""}, 0),
        ("1", 0, None, 0),  # the answer is the first one's
        ("0", 2, {"code": 2, "reason": "no"}, 2),
        ("1", 2, {"code": 2, "reason": "no"}, 2),
        ("0", 130, None, 130),  # interrupted: it is started again
    ],
)
def test_a_worker_leaves_how_it_ended(monkeypatch, tmp_path, worker, code, left, exits) -> None:
    monkeypatch.setenv("RANK", worker)
    assert leave_outcome(code, "no") == code  # nobody looks
    monkeypatch.setenv(OUTCOMES, str(tmp_path))
    assert not has_outcome()
    assert leave_outcome(code, "no" if code == 2 else "") == exits
    path = tmp_path / f"outcome-{worker}.json"
    assert (json.loads(path.read_text()) if path.exists() else None) == left
    assert has_outcome() == (left is not None)
