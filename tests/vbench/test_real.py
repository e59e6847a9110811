"""The real VBench, installed from PyPI into `out/vbench` (2 GB, once), on the CPU. Run by `make test-vbench`."""

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest

import pabtune
from pabtune.cli.main import run
from pabtune.models.registry import load_pipeline
from pabtune.models.shapes.prompts import sample_prompts
from pabtune.planning.presets import find_policy
from pabtune.quality.scores import find_score
from pabtune.records.prompts import save_prompts
from pabtune.report.videos import save_video
from pabtune.tuning.evaluate import evaluate
from pabtune.vbench import weights
from pabtune.vbench.aggregate import points
from pabtune.vbench.dimensions import DIMENSIONS, find_dimensions
from pabtune.vbench.doctor import examine
from pabtune.vbench.environment import Environment
from pabtune.vbench.prompt_lists import prompts_of_dimension
from pabtune.vbench.suites import load_suites

pytestmark = [pytest.mark.vbench, pytest.mark.timeout(3000)]

ROOT = Path(__file__).parent.parent.parent
OF_DETECTRON2 = {"object_class", "multiple_objects", "color", "spatial_relationship"}

RANDOM_CHECKPOINTS = """
import os, sys, torch
sys.path.insert(0, sys.argv[1])
import runner
runner.load_torchvision()
from easydict import EasyDict
from omegaconf import OmegaConf
import vbench
from vbench.third_party.amt.utils.build_utils import build_from_cfg
from vbench.third_party.RAFT.core.raft import RAFT
torch.manual_seed(0)
folder = os.path.dirname(vbench.__file__)
amt = build_from_cfg(OmegaConf.load(f"{folder}/third_party/amt/cfgs/AMT-S.yaml").network)
raft = RAFT(EasyDict(small=False, mixed_precision=False, alternate_corr=False))
print(sum(each.numel() for each in amt.parameters()), sum(each.numel() for each in raft.parameters()))
torch.save({"state_dict": amt.state_dict()}, sys.argv[2])
torch.save({f"module.{name}": value for name, value in raft.state_dict().items()}, sys.argv[3])
"""
"""Writes AMT-S and RAFT with random weights, in the form of the published files."""


def call(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        run(words)
    return ended.value.code


@pytest.fixture(scope="module")
def installed() -> Environment:
    environment = Environment(ROOT / "out" / "vbench")
    assert call("vbench", "setup", "--home", str(environment.home), "--no-weights") == 0
    return environment


@pytest.fixture
def fresh(installed, tmp_path) -> Environment:
    """The installed packages with neither weights nor scores."""
    environment = Environment(tmp_path / "home")
    environment.home.mkdir()
    (environment.home / "venv").symlink_to(installed.home / "venv")
    environment.save_lock(replace(installed.complete_lock(), weights={}))
    return environment


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> tuple[Path, Path]:
    """Videos of the embedded model, and their prompts."""
    folder = tmp_path_factory.mktemp("clips")
    prompts = folder / "prompts.txt"
    prompts.write_text(
        "a red square moves slowly to the left\na blue cross bounces quickly\na green circle stays still\n"
    )
    words = ("--prompts", str(prompts), "--steps", "12", "--out", str(folder / "videos" / "v.mp4"))
    assert call("generate", "shapes", *words) == 0
    return folder / "videos", prompts


def score(capsys, environment, folder, prompts, *words: str, code: int = 0) -> dict:
    capsys.readouterr()
    command = ("vbench", "score", str(folder), "--prompts", str(prompts), "--home", str(environment.home), "--json")
    assert call(*command, *words) == code
    told = capsys.readouterr()
    return json.loads(told.out) if not code else {"error": told.err.splitlines()[-1]}


def test_every_dimension_that_needs_no_detectron2_can_be_imported(installed) -> None:
    found = {each.dimension.name: each for each in examine(installed, find_dimensions(DIMENSIONS))}
    assert {name for name, each in found.items() if each.packages} == OF_DETECTRON2
    assert found["temporal_flickering"].can_run
    assert installed.complete_lock().packages["vbench"] == "0.1.5"
    assert "ViCLIP/bpe_simple_vocab_16e6.txt.gz" in installed.complete_lock().weights


def test_the_shipped_lists_are_those_of_the_package(installed) -> None:
    suites = load_suites(installed)
    assert len(suites) == 944
    for name in DIMENSIONS:
        shipped = [prompt.prompt for prompt in prompts_of_dimension(name)]
        assert set(shipped) == {text for text, prompt in suites.items() if name in prompt.dimensions}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # imageio's reader leaves its pipes open
def test_flicker_of_generated_videos_is_what_their_frames_say(fresh, clips, capsys) -> None:
    document = score(capsys, fresh, *clips, "--dimension", "temporal_flickering")
    row = document["dimensions"]["temporal_flickering"]
    assert len(row["values"]) == row["videos"] == 3
    for name, value in row["values"].items():
        frames = iio.imread(clips[0] / name, plugin="FFMPEG").astype(float)
        # OpenCV and ffmpeg convert YUV to RGB with other roundings.
        assert value == pytest.approx(1 - np.abs(np.diff(frames, axis=0)).mean() / 255, abs=2e-3)
    assert row["raw"] == pytest.approx(np.mean(list(row["values"].values())))
    again = score(capsys, fresh, *clips, "--dimension", "temporal_flickering")
    assert again["dimensions"]["temporal_flickering"]["reused"] == 3
    assert again["dimensions"]["temporal_flickering"]["values"] == row["values"]


def test_flicker_falls_with_flicker_and_a_frozen_video_has_none(fresh, tmp_path, capsys) -> None:
    picture = (
        np.random.default_rng(0).integers(40, 200, (12, 16, 3), dtype=np.uint8).repeat(16, axis=0).repeat(16, axis=1)
    )
    (tmp_path / "videos").mkdir()
    (tmp_path / "p.txt").write_text("still\nsome\nmore\n")
    for index, strength in enumerate((0, 10, 30)):
        frames = np.stack([picture + np.uint8(strength * (frame % 2)) for frame in range(8)])
        save_video(tmp_path / "videos" / f"v-{index}.mp4", frames, 8)
    values = score(capsys, fresh, tmp_path / "videos", tmp_path / "p.txt")["dimensions"]["temporal_flickering"][
        "values"
    ]
    still, some, more = values.values()
    assert still == pytest.approx(1.0, abs=1e-3)
    assert still - some == pytest.approx(10 / 255, rel=0.15)
    assert some - more == pytest.approx(20 / 255, rel=0.15)


def flicker(video: np.ndarray) -> float:
    return 1 - np.abs(np.diff(video.astype(float), axis=0)).mean() / 255


def test_an_evaluation_gets_the_flicker_of_the_frames_themselves(fresh) -> None:
    """No codec lies between: with the files of `generate` it is 0.002 off (above), here it is VBench's float32."""
    pipeline, videos = load_pipeline("shapes"), {}
    prompts = sample_prompts(4, 5)
    (found,) = evaluate(
        pipeline, [find_policy("every:4")], prompts, 12, score=find_score("vbench:temporal_flickering", fresh),
        on_videos=lambda name, batch, made: videos.setdefault(name, []).extend(made),
    )  # fmt: skip
    for made, scores in ((videos["reference"], found.baseline_scores), (videos["every:4"], found.scores)):
        expected = [points("temporal_flickering", flicker(video)) for video in made]
        assert scores == pytest.approx(expected, abs=1e-4)
    assert max(map(abs, found.drops)) > 0.1


def test_a_search_runs_on_a_budget_of_a_dimension_and_an_evaluation_on_its_score(fresh, tmp_path, capsys) -> None:
    prompts, profile, out = tmp_path / "p.jsonl", tmp_path / "short.json", tmp_path / "found.json"
    save_prompts(prompts, sample_prompts(12, 6))
    pabtune.profile(load_pipeline("shapes"), sample_prompts(2, 6), 12, name="short", model="shapes").save(profile)
    common = ("--prompts", str(prompts), "--vbench-home", str(fresh.home), "--json")
    capsys.readouterr()
    words = ("search", str(profile), "--budget", "vbench:temporal_flickering>=-0.5", "--trials", "6", "--floor", "none")
    words += ("--out", str(out), "--logdir", str(tmp_path / "log"))
    assert call(*words, *common) == 1  # eight unseen prompts are too few to accept anything
    document = json.loads(capsys.readouterr().out)
    assert document["verdict"] in ("undecided", "reject")
    assert document["trials"] == 6
    assert document["evaluations"][0]["score"]["name"] == "vbench:temporal_flickering"
    words = ("evaluate", "shapes", "--policy", "every:2", "--steps", "6", "--score", "vbench:temporal_flickering")
    assert call(*words, *common) == 0
    told = capsys.readouterr()
    score = json.loads(told.out)["policies"][0]["score"]
    assert score["name"] == "vbench:temporal_flickering"
    assert 0 < score["policy"] < 100
    assert score["drop"] == pytest.approx(score["baseline"] - score["policy"])
    with capsys.disabled():
        print("\nsearch:", document["verdict"], [each["score"] for each in document["evaluations"]], score)  # noqa: T201
    for name in ("vbench-quality", "vbench"):
        assert call(*words[:-1], name, *common) == 2
        told = capsys.readouterr()
        assert "subject_consistency cannot run: dino_model/" in told.err
        assert len(told.err.splitlines()) == 1


@pytest.mark.parametrize("damage", ["no video", "cut short"])
def test_a_corrupt_video_is_told_where_vbench_says_nothing(fresh, clips, tmp_path, capsys, damage) -> None:
    shutil.copytree(clips[0], tmp_path / "videos")
    path = tmp_path / "videos" / "v-001.mp4"
    path.write_bytes(b"no video" if damage == "no video" else path.read_bytes()[:600])
    told = score(capsys, fresh, tmp_path / "videos", clips[1], "--dimension", "temporal_flickering", code=2)
    assert "1 of 3 new videos have no value" in told["error"]
    assert "v-001.mp4: VBench left it out without a word" in told["error"]
    shutil.copy(clips[0] / "v-001.mp4", path)
    mended = score(capsys, fresh, tmp_path / "videos", clips[1], "--dimension", "temporal_flickering")
    assert mended["dimensions"]["temporal_flickering"]["reused"] == 2


def test_two_dimensions_with_small_networks_run_with_random_checkpoints(fresh, clips, capsys, monkeypatch) -> None:
    amt, raft = "amt_model/amt-s.pth", "raft_model/models/raft-things.pth"
    for name in (amt, raft):
        (fresh.weights / name).parent.mkdir(parents=True)
    made = subprocess.run(
        [str(fresh.python), "-I", "-c", RANDOM_CHECKPOINTS, str(ROOT / "pabtune" / "vbench"), str(fresh.weights / amt),
         str(fresh.weights / raft)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    assert made.stdout.split() == ["2990543", "5257536"]  # parameters of AMT-S and of RAFT
    names = ("--dimension", "motion_smoothness", "--dimension", "dynamic_degree")
    refused = score(capsys, fresh, *clips, *names, code=2)
    assert "dynamic_degree cannot run" in refused["error"]  # RAFT's checksum is published: random weights are not it
    assert "has another checksum" in refused["error"]
    monkeypatch.setitem(weights.WEIGHT_FILES, raft, replace(weights.WEIGHT_FILES[raft], sha256=""))
    document = score(capsys, fresh, *clips, *names)["dimensions"]
    assert set(document) == {"motion_smoothness", "dynamic_degree"}
    assert all(0 < value < 1 for value in document["motion_smoothness"]["values"].values())
    assert all(value in (0.0, 1.0) for value in document["dynamic_degree"]["values"].values())
    with capsys.disabled():
        print("\nrandom checkpoints:", {name: row["values"] for name, row in document.items()})  # noqa: T201
