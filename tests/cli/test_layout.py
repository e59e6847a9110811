"""Verbs on several processes, as a user starts them."""

import json
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from pabtune.parallel import launch as launching
from pabtune.parallel.session import resolve_layout
from pabtune.records.errors import ParallelError
from pabtune.records.layouts import ParallelLayout
from tests.cli.conftest import call
from tests.pipelines.cases import CASES

DRAW = ("generate", "shapes", "--policy", "pab246", "--steps", "8", "--prompt", "a red square rises slowly")


@pytest.mark.slow
def test_two_processes_make_the_same_file(pabtune, tmp_path) -> None:
    alone, ours = (tmp_path / f"{name}.gif" for name in ("alone", "ours"))
    assert pabtune(*DRAW, "--out", str(alone)).returncode == 0
    done = call(*DRAW, "--out", str(ours), "--gpus", "2", "--json")
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout)["videos"][0]
    assert row["sent_by_first_process"]["temporal"]["messages"] > 0
    assert done.stderr.count("2 processes: frames split over 2 by dsp") == 1
    assert alone.read_bytes() == ours.read_bytes()


@pytest.mark.slow
def test_processes_that_torchrun_starts_split_branches(tmp_path) -> None:
    torchrun = tmp_path / "torchrun.gif"
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    done = call(*DRAW, "--out", str(torchrun), "--split-branches", launcher=launcher)
    assert done.returncode == 0, done.stderr
    assert "2 processes: one guidance branch on each half" in done.stderr
    assert torchrun.exists()


@pytest.mark.slow
def test_two_prompts_are_drawn_in_one_call_each_by_its_own_process(pabtune, tmp_path) -> None:
    words = (*DRAW, "--prompt", "a blue cross bounces quickly", "--json")
    done = pabtune(*words, "--out", str(tmp_path / "alone.gif"))
    assert done.returncode == 0, done.stderr
    done = call(*words, "--out", str(tmp_path / "shared.gif"), "--gpus", "2", "--split-samples", "2")
    assert done.returncode == 0, done.stderr
    assert "2 processes: samples split over 2" in done.stderr
    rows = json.loads(done.stdout)["videos"]
    assert [row["prompt"] for row in rows] == [DRAW[-1], "a blue cross bounces quickly"]
    assert set(rows[0]["sent_by_first_process"]) == {"output"}
    for index in range(2):
        alone, shared = (tmp_path / f"{name}-00{index}.gif" for name in ("alone", "shared"))
        assert alone.read_bytes() == shared.read_bytes()


def test_an_axis_that_a_model_lacks_is_refused() -> None:
    layout = ParallelLayout(sequence=2, axis="tokens")
    for name, able in (("latte", "frames"), ("wan-2.1", "sequence")):
        with pytest.raises(ParallelError, match=f"the layout splits tokens, but .* can only be split along {able}"):
            resolve_layout(CASES[name].build(), layout)


@pytest.mark.slow
def test_a_model_is_split_along_the_axis_that_the_user_names(tmp_path) -> None:
    done = call(*DRAW, "--out", str(tmp_path / "v.gif"), "--gpus", "2", "--split-axis", "tokens", "--json")
    assert done.returncode == 0, done.stderr
    assert "tokens of each frame split over 2 by dsp" in done.stderr
    assert json.loads(done.stdout)["videos"][0]["sent_by_first_process"]["spatial"]["messages"] > 0


@pytest.mark.slow  # reading a layout, and running one from options, are tested below and above
def test_a_layout_from_a_file_is_the_one_that_runs(tmp_path) -> None:
    ParallelLayout(sequence=2, axis="tokens", exchange="ulysses", decode="alone").save(tmp_path / "layout.json")
    words = (*DRAW, "--out", str(tmp_path / "v.gif"), "--layout", str(tmp_path / "layout.json"))
    done = call(*words, "--json")
    assert done.returncode == 0, done.stderr
    assert "2 processes: tokens of each frame split over 2 by ulysses\n" in done.stderr
    assert json.loads(done.stdout)["videos"][0]["sent_by_first_process"]["spatial"]["messages"] > 0


@pytest.mark.slow
def test_two_launchers_as_on_two_machines_make_the_same_file(pabtune, tmp_path) -> None:
    """Each has one process and meets the other at a place that both were told; the first process of all writes."""
    alone, both = tmp_path / "alone.gif", tmp_path / "both.gif"
    assert pabtune(*DRAW, "--out", str(alone)).returncode == 0
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    launcher = (
        "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1", "--rdzv-id", "test", "--rdzv-backend",
        "c10d", "--rdzv-endpoint", f"localhost:{port}",
    )  # fmt: skip
    with ThreadPoolExecutor() as machines:
        done = list(machines.map(lambda _: call(*DRAW, "--out", str(both), "--json", launcher=launcher), range(2)))
    assert [each.returncode for each in done] == [0, 0], [each.stderr for each in done]
    assert both.read_bytes() == alone.read_bytes()
    assert sorted(bool(each.stdout) for each in done) == [False, True]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--gpus", "3", "--split-branches"], "2 guidance branches need a multiple of 2 GPUs, not 3"),
        (["--split-branches"], "2 guidance branches need a multiple of 2 GPUs, not 1"),
        (["--split-axis", "tokens"], "--split-axis tokens needs several processes: --gpus 2 or more"),
        (["--gpus", "3", "--split-samples", "2"], "2 parts of the samples do not fit 3 GPUs for each branch"),
        (
            ["--gpus", "2", "--split-samples", "2", "--prompt", "a blue cross rises", "--prompt", "a red disc sinks"],
            "--split-samples 2 needs a multiple of 2 prompts of a content class in each call, but 1 of 'any' are left",
        ),
    ],
)
def test_what_cannot_be_shared_starts_no_process(words, message, pabtune, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(launching, "launch", lambda *_: 1 / 0)
    done = pabtune(*DRAW, "--out", str(tmp_path / "v.gif"), *words)
    assert (done.returncode, done.stderr.count("error:")) == (2, 1)
    assert message in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--gpus", "2", "--split-axis", "tokens", "--sequence-parallel", "ring"], "'ring' is not one of"),
        pytest.param(["--gpus", "2", "--prompt", "an elephant"], "unknown word 'elephant'", marks=pytest.mark.slow),
        pytest.param(
            ["--gpus", "2", "--guidance-scale", "1", "--split-branches"],
            "a call must have a multiple of 2 samples, but has 1: is guidance on",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_mistakes_on_several_processes_end_in_one_line(words, message, tmp_path) -> None:
    done = call(*DRAW, "--out", str(tmp_path / "v.gif"), *words)
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert message in errors[0]
    assert "Traceback" not in done.stderr
