"""The same video on one process and on several, and exactly the predicted messages. gloo, on the CPU."""

import json
import sys
from pathlib import Path

import pytest
import torch

from pabtune.parallel import split as split_module
from pabtune.parallel.launch import launch
from pabtune.parallel.split import split
from pabtune.records.errors import ParallelError
from tests.conftest import STEPS, make_pipeline

ROOT = Path(__file__).parent.parent.parent
WORKER = Path(__file__).parent / "worker.py"


def together(processes: int, case: str, folder: Path, monkeypatch) -> list[list[dict]]:
    """What each process found."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    launch(processes, [sys.executable, str(WORKER), str(folder / "found.json"), case])
    return [json.loads((folder / f"found-{rank}.json").read_text()) for rank in range(processes)]


@pytest.mark.parametrize("processes", [2, 4])
def test_several_processes_draw_the_same_video_and_send_what_was_predicted(processes, tmp_path, monkeypatch) -> None:
    found = together(processes, "videos", tmp_path, monkeypatch)
    assert all(len(rows) == 2 * 3 * 2 for rows in found)
    for row in found[0]:
        assert row["error"] < 1e-5, row
        assert row["restored"] == 0, row
        assert row["sent"] == row["expected"], row
        # One gather of the output per step and shared dimension, whatever is broadcast.
        assert row["output"]["messages"] == STEPS * sum(size > 1 for size in row["layout"])
    plain = [row["sent"]["messages"] for row in found[0] if row["policy"] == "none" and row["layout"][1] > 1]
    fast = [row["sent"]["messages"] for row in found[0] if row["policy"] != "none" and row["layout"][1] > 1]
    assert all(0 < few < many for few, many in zip(fast, plain, strict=True))


@pytest.mark.multi_gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_several_gpus_draw_the_same_video_by_nccl(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("WORKER_DEVICE", "cuda")
    for row in together(2, "videos", tmp_path, monkeypatch)[0]:
        assert row["error"] < 1e-4, row
        assert row["sent"] == row["expected"], row


@pytest.mark.parametrize("processes", [2, 3])
def test_lengths_that_are_not_divided_work(processes, tmp_path, monkeypatch) -> None:
    for rows in together(processes, "lengths", tmp_path, monkeypatch):
        assert len(rows) == 4 * 2 * 3
        for row in rows:
            assert row["error"] < 1e-5, row


class Alone:
    """A mesh of one process."""

    branches = sequence = None


def test_what_cannot_be_split_is_refused(monkeypatch) -> None:
    monkeypatch.setattr(split_module, "Split", lambda *_: None)
    with pytest.raises(ParallelError, match="Linear cannot be split over processes yet; STDiT3"):
        split(torch.nn.Linear(2, 2), Alone())
    with pytest.raises(ParallelError, match="unknown way 'ring'; known: dsp, ulysses, megatron-sp"):
        split(make_pipeline(), Alone(), "ring")
    import pabtune
    from tests.conftest import pyramid

    pipeline = make_pipeline()
    with (
        pabtune.broadcast(pipeline, pyramid()),
        pytest.raises(ParallelError, match="has hooks: split it once, and before a policy"),
    ):
        split(pipeline, Alone())
