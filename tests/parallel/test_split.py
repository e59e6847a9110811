"""The same video on one process and on several, and exactly the predicted messages, call by call. gloo, on the CPU."""

import json
import sys
from pathlib import Path

import pytest
import torch

import pabtune
from pabtune.parallel import split as split_module
from pabtune.parallel.launch import launch
from pabtune.parallel.mesh import Layout
from pabtune.parallel.split import split
from pabtune.records.errors import ParallelError
from tests.conftest import make_pipeline, pyramid
from tests.pipelines.cases import CASES

ROOT = Path(__file__).parent.parent.parent
WORKER = Path(__file__).parent / "worker.py"


def together(processes: int, case: str, folder: Path, monkeypatch) -> list[list[dict]]:
    """What each process found."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    launch(processes, [sys.executable, str(WORKER), str(folder / "found.json"), case])
    return [json.loads((folder / f"found-{rank}.json").read_text()) for rank in range(processes)]


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


@pytest.mark.parametrize("processes", [2, 4])
def test_several_processes_draw_the_same_video_and_send_what_was_predicted(processes, tmp_path, monkeypatch) -> None:
    found = together(processes, "videos", tmp_path, monkeypatch)
    for rows in found:
        check(rows)
    layouts = {tuple(row["layout"]) for row in found[0]}
    assert (1, 2, processes // 2) in layouts
    assert (2, 1, processes // 2) in layouts
    assert all(row["predicted"] for row in found[0])
    shared = [row for row in found[0] if row["layout"][2] > 1]
    sent = {name: [row["sent"][1] for row in shared if row["policy"] == name] for name in ("none", "pyramid")}
    assert all(few < many for few, many in zip(sent["pyramid"], sent["none"], strict=True))


@pytest.mark.parametrize(
    "processes", [2, pytest.param(3, marks=pytest.mark.slow), pytest.param(4, marks=pytest.mark.slow)]
)
def test_full_attention_is_shared_by_heads(processes, tmp_path, monkeypatch) -> None:
    """With text beside the video and without, on lengths and heads that are not divided; a broadcast sends nothing."""
    for rows in together(processes, "pipelines", tmp_path, monkeypatch):
        check(rows)
        assert all(row["predicted"] for row in rows)


@pytest.mark.parametrize("processes", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_the_papers_models_are_shared_in_every_way(processes, tmp_path, monkeypatch) -> None:
    """And guidance branches of pipelines that ask for one after the other."""
    for rows in together(processes, "others", tmp_path, monkeypatch):
        check(rows)


@pytest.mark.multi_gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@pytest.mark.parametrize("case", ["videos", "pipelines", "others"])
def test_several_gpus_draw_the_same_video_by_nccl(case, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("WORKER_DEVICE", "cuda")
    for rows in together(2, case, tmp_path, monkeypatch):
        check(rows, tolerance=1e-4)


@pytest.mark.parametrize("processes", [2, 3])
def test_lengths_that_are_not_divided_work(processes, tmp_path, monkeypatch) -> None:
    for rows in together(processes, "lengths", tmp_path, monkeypatch):
        assert len(rows) == 4 * 2 * 3 * 2
        for row in rows:
            assert row["error"] < 1e-5, row


class Shared:
    """A mesh of two processes that share the sequence."""

    layout = Layout(sequence=2)


def test_what_cannot_be_split_is_refused(monkeypatch) -> None:
    monkeypatch.setattr(split_module, "Exchange", lambda *_: None)
    with pytest.raises(
        ParallelError, match="the sequence of MochiTransformer3DModel cannot be split over processes yet; known"
    ):
        split(CASES["mochi"].build(), Shared())
    with pytest.raises(ParallelError, match="unknown way 'ring'; known: dsp, ulysses, megatron-sp"):
        split(make_pipeline(), Shared(), "ring")
    with pytest.raises(ParallelError, match="LatteTransformer3DModel can be split over frames, not over tokens"):
        split(CASES["latte"].build(), Shared(), "dsp", "tokens")
    pipeline = make_pipeline()
    with (
        pabtune.broadcast(pipeline, pyramid()),
        pytest.raises(ParallelError, match="has hooks: split it once, and before a policy"),
    ):
        split(pipeline, Shared())


def test_a_split_that_fails_leaves_nothing(monkeypatch) -> None:
    monkeypatch.setattr(split_module, "Exchange", lambda *_: None)
    monkeypatch.setattr(split_module, "SamplesHook", lambda *_: 1 / 0)
    pipeline = make_pipeline()
    before = [set(vars(module)) for module in pipeline.transformer.modules()]
    with pytest.raises(ZeroDivisionError):
        split(pipeline, Shared())
    assert [set(vars(module)) for module in pipeline.transformer.modules()] == before
