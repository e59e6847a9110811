"""Scoring through the real runner process, with a stand-in for the package that it runs."""

import math
import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import psutil
import pytest

from pabtune.records.errors import VbenchError
from pabtune.records.prompts import load_prompts
from pabtune.vbench.aggregate import points
from pabtune.vbench.dimensions import DIMENSIONS, STATIC_FILTER
from pabtune.vbench.score import DimensionScore, summarize
from pabtune.vbench.scorecard import score_folder
from pabtune.vbench.videos import Video
from pabtune.vbench.weights import WEIGHT_FILES
from tests.vbench.conftest import calls, write_videos

ROOT = Path(__file__).parent.parent.parent


def score(environment, tmp_path, contents, names=("temporal_flickering",), **options):
    prompts = load_prompts(write_videos(tmp_path / "videos", contents))
    return score_folder(
        environment, tmp_path / "videos", prompts, names,
        **{"official": False, "device": "cpu", "progress": lambda title: nullcontext(lambda done, total: None), **options},
    )  # fmt: skip


def kept(environment) -> int:
    """Values that are kept: a file whose writing was interrupted begins with a dot."""
    return sum(not path.name.startswith(".") for path in environment.scores.rglob("*.json"))


def test_each_video_gets_its_value_and_the_mean_is_computed_here(environment, tmp_path) -> None:
    card = score(environment, tmp_path, ["0.9", "1.0", "0.5"])
    (only,) = card.scores
    assert only.values == (0.9, 1.0, 0.5)
    assert only.raw == pytest.approx(0.8)
    document = card.to_document()
    assert document["dimensions"]["temporal_flickering"] == {
        "raw": pytest.approx(0.8), "points": pytest.approx(points("temporal_flickering", 0.8)), "videos": 3, "left_out": 0,
        "reused": 0, "values": {"v-000.mp4": 0.9, "v-001.mp4": 1.0, "v-002.mp4": 0.5},
    }  # fmt: skip
    assert (document["vbench"], document["quality"], document["total"]) == ("0.0", None, None)
    assert "VBench prints to stdout" in environment.log("temporal_flickering").read_text()


def test_nothing_is_scored_twice_wherever_the_video_lies(environment, tmp_path) -> None:
    score(environment, tmp_path, ["0.9", "1.0"])
    (again,) = score(environment, tmp_path, ["1.0", "0.9", "1.0", "0.7"]).scores
    assert again.values == (1.0, 0.9, 1.0, 0.7)
    assert again.reused == 3
    assert calls(environment) == ["0.9", "1.0", "0.7"]


def test_equal_videos_are_scored_once(environment, tmp_path) -> None:
    (only,) = score(environment, tmp_path, ["0.9", "0.9"]).scores
    assert only.values == (0.9, 0.9)
    assert calls(environment) == ["0.9"]


@pytest.mark.parametrize("change", ["device", "package", "weights"])
def test_whatever_a_score_depends_on_makes_it_another(environment, tmp_path, change) -> None:
    score(environment, tmp_path, ["0.9"])
    if change == "package":
        environment.lock_path.write_text(environment.lock_path.read_text().replace('"torch": "0.0"', '"torch": "0.1"'))
    elif change == "weights":
        environment.weights.joinpath("amt_model").mkdir()
        environment.weights.joinpath("amt_model", "amt-s.pth").write_text("not this dimension's")
    score(environment, tmp_path, ["0.9"], device="cuda:0" if change == "device" else "cpu")
    assert len(calls(environment)) == (1 if change == "weights" else 2)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("nan", "VBench's value is nan"),
        ("inf", "VBench's value is inf"),
        ("skip", "VBench left it out without a word"),
        ("corrupt", "ValueError: cannot decode"),
    ],
)
def test_a_video_without_a_finite_value_keeps_its_dimension_from_counting(
    environment, tmp_path, content, problem
) -> None:
    card = score(environment, tmp_path, ["0.9", content, "0.8"])
    assert not card.scores
    failure = card.failed["temporal_flickering"]
    assert "1 of 3 new videos have no value, so that none counts" in failure
    assert f"v-001.mp4: {problem}" in failure
    assert kept(environment) == 2
    (mended,) = score(environment, tmp_path, ["0.9", "1.0", "0.8"]).scores
    assert mended.reused == 2
    assert calls(environment) == ["0.9", content, "0.8", "1.0"]


def give_weights(environment, monkeypatch) -> None:
    """Lets `overall_consistency` run, which scores eight videos at once: no file of these can be had here."""
    dimension = DIMENSIONS["overall_consistency"]
    monkeypatch.setattr("pabtune.vbench.weights.problem_of", lambda *_: None)
    monkeypatch.setattr("pabtune.vbench.doctor.problem_of", lambda *_: None)
    for name in dimension.files:
        path = environment.weights / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)


def test_one_broken_video_among_several_at_once_is_told_from_the_others(environment, tmp_path, monkeypatch) -> None:
    give_weights(environment, monkeypatch)
    contents = ["0.1", "0.2", "corrupt", "0.3"]
    card = score(environment, tmp_path, contents, ["overall_consistency"])
    assert "1 of 4 new videos have no value" in card.failed["overall_consistency"]
    assert kept(environment) == 3


def test_where_the_prompt_is_read_it_is_part_of_what_is_known(environment, tmp_path, monkeypatch) -> None:
    give_weights(environment, monkeypatch)
    folder = tmp_path / "videos"
    folder.mkdir()
    for index in range(2):
        (folder / f"v-{index}.mp4").write_text("prompt")
    (tmp_path / "prompts.txt").write_text("a red square\na blue cross\n")
    card = score_folder(
        environment, folder, load_prompts(tmp_path / "prompts.txt"), ["overall_consistency"], official=False, device="cpu",
        progress=lambda title: nullcontext(lambda done, total: None),
    )  # fmt: skip
    assert card.scores[0].values == (1.0, 0.0)


def test_a_runner_that_dies_says_how_far_it_came_and_the_next_goes_on(environment, tmp_path) -> None:
    card = score(environment, tmp_path, ["0.9", "0.8", "die", "0.7"])
    assert "VBench's process ended after 2 of 4 videos, which are kept; run the same command again" in card.failed[
        "temporal_flickering"
    ]  # fmt: skip
    (after,) = score(environment, tmp_path, ["0.9", "0.8", "0.6", "0.7"]).scores
    assert after.reused == 2
    assert calls(environment) == ["0.9", "0.8", "die", "0.6", "0.7"]


def test_a_killed_run_goes_on_where_it_was(environment, tmp_path) -> None:
    contents = [f"slow 0.{index}" for index in range(1, 9)]
    prompts = write_videos(tmp_path / "videos", contents)
    command = [
        sys.executable, str(ROOT / "cli.py"), "vbench", "score", str(tmp_path / "videos"), "--prompts", str(prompts),
        "--home", str(environment.home), "--dimension", "temporal_flickering",
    ]  # fmt: skip
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while kept(environment) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = kept(environment)
    assert 3 <= before < 8
    deadline = time.monotonic() + 10  # its child ends with the video that it was at: nobody reads its answers any more
    while len(calls(environment)) < before + 1 and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(1)
    assert len(calls(environment)) <= before + 2
    (card,) = score(environment, tmp_path, contents).scores
    assert card.values == tuple(index / 10 for index in range(1, 9))
    assert card.reused == before
    counted = calls(environment)
    assert all(counted.count(content) == 1 for content in contents[:before])


def test_a_score_that_is_no_score_of_this_is_refused(environment, tmp_path) -> None:
    score(environment, tmp_path, ["0.9"])
    (path,) = environment.scores.rglob("*.json")
    path.write_text(path.read_text().replace('"device": "cpu"', '"device": "gpu"'))
    failure = score(environment, tmp_path, ["0.9"]).failed["temporal_flickering"]
    assert failure.endswith("is the score of something else than its name says; remove it")
    path.write_text(path.read_text().replace("0.9", "NaN"))
    assert "NaN is not allowed" in score(environment, tmp_path, ["0.9"]).failed["temporal_flickering"]


def test_a_full_disk_stops_it_with_what_was_kept(environment, tmp_path) -> None:
    """The kernel itself refuses to write more than so many bytes into a file."""
    score(environment, tmp_path, ["0.9"])
    prompts = write_videos(tmp_path / "videos", ["0.9", "0.8", "0.7"])
    command = [
        sys.executable, str(ROOT / "cli.py"), "vbench", "score", str(tmp_path / "videos"), "--prompts", str(prompts),
        "--home", str(environment.home), "--dimension", "temporal_flickering", "--json",
    ]  # fmt: skip
    run = partial(
        subprocess.run, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    done = run(["prlimit", "--fsize=200", *command])
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = [line for line in done.stderr.splitlines() if "error: " in line]
    assert "cannot write here: File too large" in line
    assert kept(environment) == 1
    assert [path.suffix for path in environment.scores.rglob("*") if path.is_file()] == [".json"]
    (card,) = score(environment, tmp_path, ["0.9", "0.8", "0.7"]).scores
    assert (card.reused, card.values) == (1, (0.9, 0.8, 0.7))


def test_a_dimension_that_hangs_is_killed_with_what_it_started(environment, tmp_path) -> None:
    began = time.monotonic()
    card = score(environment, tmp_path, ["0.9", "0.8", "hang", "0.7"], timeout_minutes=0.05)
    assert time.monotonic() - began < 60
    failure = card.failed["temporal_flickering"]
    assert "had not ended after 0.05 minutes and was killed; allow it more with --timeout" in failure
    assert "2 of 4 videos are kept" in failure
    (after,) = score(environment, tmp_path, ["0.9", "0.8", "0.6", "0.7"], timeout_minutes=5).scores
    assert (after.reused, after.values) == (2, (0.9, 0.8, 0.6, 0.7))


STATIC = """
from pathlib import Path

class StaticFilter:
    def __init__(self, args, device):
        assert DEVICE == device == "cpu"
        assert Path(args.model).read_text() == "raft"
        assert "dropout" not in args

    def infer(self, path):
        return float(Path(path).read_text()) > 0.5
"""


def test_flicker_counts_on_static_videos_alone(environment, tmp_path, monkeypatch) -> None:
    """The filter of the real package has its arguments; what RAFT sees is not checked here."""
    with pytest.raises(VbenchError, match=r"static_filter cannot run: .*raft-things.pth is missing"):
        score(environment, tmp_path, ["0.9"], static_filter=True)
    command = environment.site_packages / "vbench" / "cli"
    command.mkdir()
    (command / "__init__.py").touch()
    (command / "static_filter.py").write_text(STATIC)
    name = STATIC_FILTER.files[0]
    monkeypatch.setitem(WEIGHT_FILES, name, replace(WEIGHT_FILES[name], sha256=""))
    (environment.weights / name).parent.mkdir(parents=True)
    (environment.weights / name).write_text("raft")
    (card,) = score(environment, tmp_path, ["0.9", "0.2", "0.8"], static_filter=True).scores
    assert card.values == (0.9, 0.8)
    failed = score(environment, tmp_path, ["0.1", "0.2", "0.3"], static_filter=True).failed["temporal_flickering"]
    assert "finds none of 3 videos static" in failed


def test_a_dimension_that_was_named_must_be_able_to_run(environment, tmp_path) -> None:
    with pytest.raises(
        VbenchError, match=r"dynamic_degree cannot run: .*raft-things.pth is missing.*pabtune vbench doctor"
    ):
        score(environment, tmp_path, ["0.9"], ["temporal_flickering", "dynamic_degree"])
    assert not calls(environment)
    card = score(environment, tmp_path, ["0.9"], [])
    assert [each.dimension.name for each in card.scores] == ["temporal_flickering"]
    assert len(card.not_run) == 8


def test_official_wants_every_prompt_of_the_suite(environment, tmp_path) -> None:
    with pytest.raises(VbenchError, match=r"--official: 2 of 2 prompts of temporal_flickering have no video"):
        score(environment, tmp_path, ["0.9"], official=True)
    folder = tmp_path / "suite"
    folder.mkdir()
    names = {
        "In a still frame, a stop sign": ("0.8", "0.9"),
        "a toilet, frozen in time": ("1.0",),
        "a red bicycle": ("0",),
    }
    for prompt, contents in names.items():
        for index, content in enumerate(contents):
            (folder / f"{prompt}-{index}.mp4").write_text(content)
    (tmp_path / "suite.txt").write_text("\n".join(names))
    card = score_folder(
        environment, folder, load_prompts(tmp_path / "suite.txt"), ["temporal_flickering"], official=True, device="cpu",
        progress=lambda title: nullcontext(lambda done, total: None),
    )  # fmt: skip
    assert card.scores[0].raw == pytest.approx(0.9)
    assert len(card.scores[0].videos) == 3


def test_prompts_without_annotation_are_refused_by_dimensions_that_read_it(environment, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("pabtune.vbench.scorecard.examine", lambda *_, **__: [])
    with pytest.raises(VbenchError, match="color scores only VBench's own prompts of its suite, but got 'prompt 0'"):
        score(environment, tmp_path, ["0.9"], ["color"])


def test_the_three_scores_are_told_where_all_dimensions_are(tmp_path) -> None:
    def scored(name: str) -> DimensionScore:
        video = Video(path=tmp_path / "v.mp4", sha256="0" * 64, prompt="x")
        return DimensionScore(dimension=DIMENSIONS[name], values=(0.5, None), videos=(video, video), reused=0)

    scores = [scored(name) for name in DIMENSIONS]
    assert summarize(scores[:6]) == {"quality": None, "semantic": None, "total": None}
    assert summarize(scores[:7])["quality"] is not None
    everything = summarize(scores)
    assert everything["total"] == pytest.approx((4 * everything["quality"] + everything["semantic"]) / 5)
    assert all(math.isfinite(each) for each in everything.values())


def test_an_empty_file_is_no_known_score(environment, tmp_path) -> None:
    """As a power cut may leave it: the video could not be scored any more."""
    score(environment, tmp_path, ["0.5"])
    (kept,) = environment.scores.rglob("*.json")
    kept.write_text("")
    assert score(environment, tmp_path, ["0.5"]).scores[0].values == (0.5,)
    assert calls(environment) == ["0.5", "0.5"]


def test_a_runner_ends_with_the_one_who_asked_it(environment, tmp_path) -> None:
    """Killed, pabtune left VBench's process and what that had started running, on the GPU."""
    asker = """
import sys
from pathlib import Path
from pabtune.vbench.environment import Environment
from pabtune.vbench.process import answers
home, video = map(Path, sys.argv[1:])
request = {"do": "score", "dimension": "temporal_flickering", "device": "cpu", "videos_at_once": 1,
           "videos": [{"path": str(video), "prompt": "x", "annotation": {}}]}
for answer in answers(Environment(home), request, home / "log"):
    pass
"""
    video = tmp_path / "v.mp4"
    video.write_text("hang")
    process = subprocess.Popen([sys.executable, "-c", asker, environment.home, video], env={"PYTHONPATH": os.getcwd()})
    deadline = time.monotonic() + 60
    while not calls(environment) and time.monotonic() < deadline:
        time.sleep(0.05)
    started = psutil.Process(process.pid).children(recursive=True)
    assert len(started) >= 1
    process.kill()
    process.wait()
    gone, alive = psutil.wait_procs(started, timeout=20)
    assert not alive
