import json

from pabtune.parallel.process import ERROR_FILE, is_launched, local_device, rank, report_failure, world_size


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
