"""VBench's scores through the real runner, in a stand-in for its package whose dimensions are how bright a video is.

What the real package makes of them is checked by `tests/vbench/test_real.py`.
"""

import json
from collections import Counter

import imageio_ffmpeg
import numpy as np
import pytest

from pabtune.planning.presets import PRESETS
from pabtune.quality import vbench_scores as module
from pabtune.quality.budget import Budget
from pabtune.quality.scores import find_score
from pabtune.records.errors import BudgetError
from pabtune.tuning.candidates import TrialRunner
from pabtune.tuning.evaluate import evaluate
from pabtune.tuning.generation import Settings
from pabtune.tuning.profile import profile
from pabtune.tuning.references import References
from pabtune.vbench.aggregate import SCALES, points, total_score, total_weights
from pabtune.vbench.dimensions import DIMENSIONS
from pabtune.vbench.environment import Environment, Lock, pins_digest
from pabtune.vbench.weights import WEIGHT_FILES
from tests.conftest import PROMPTS, STEPS, pyramid
from tests.vbench.conftest import environment  # noqa: F401, a fixture

DIMENSION = '''
import json, os, subprocess
from pathlib import Path

CALLS = Path(os.environ["VBENCH_CACHE_DIR"]).parent / "calls"

def compute_{name}(info, device, parts):
    """Mean brightness, 0..1; nothing of a black video."""
    rows = []
    for entry in json.loads(Path(info).read_text()):
        for path in entry["video_list"]:
            command = ["{ffmpeg}", "-loglevel", "error", "-i", path, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
            frames = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
            with CALLS.open("a") as calls:
                calls.write("{name} %d %d\\n" % (os.getpid(), len(frames)))
            if any(frames):
                rows.append({{"video_path": path, "video_results": sum(frames) / len(frames) / 255 / {unit}}})
    return None, rows
'''

SUITES = [
    {"prompt_en": "a cat", "dimension": ["subject_consistency", "motion_smoothness", "dynamic_degree"]},
    {"prompt_en": "a red bicycle", "dimension": ["color", "object_class", "multiple_objects", "spatial_relationship"]},
    {"prompt_en": "a blue car", "dimension": ["color", "human_action"]},
    {"prompt_en": "a street", "dimension": ["scene", "background_consistency", "appearance_style", "temporal_style"]},
    {"prompt_en": "a toilet, frozen in time", "dimension": ["temporal_flickering"]},
    {"prompt_en": "a dog", "dimension": ["overall_consistency", "aesthetic_quality", "imaging_quality"]},
    {"prompt_en": "a dog", "dimension": ["subject_consistency"]},
]  # fmt: skip
"""Prompts of all sixteen dimensions, two of which have two; one prompt stands twice, as in VBench's list."""

OWN = sorted({each["prompt_en"] for each in SUITES})
OTHERS = ["a red square moves left", "a blue cross stands still"]


@pytest.fixture
def bright(environment) -> Environment:  # noqa: F811
    """An environment in which `temporal_flickering` can run, and no other dimension."""
    package, ffmpeg = environment.site_packages / "vbench", imageio_ffmpeg.get_ffmpeg_exe()
    for name, each in DIMENSIONS.items():
        text = DIMENSION.format(name=name, ffmpeg=ffmpeg, unit=each.unit)
        (package / f"{name}.py").write_text(text)
    (package / "VBench_full_info.json").write_text(json.dumps(SUITES))
    return environment


@pytest.fixture
def complete(bright, monkeypatch) -> Environment:
    """The same with all weight files, which cannot be had here."""
    monkeypatch.setattr("pabtune.vbench.doctor.problem_of", lambda *_: None)
    for name in WEIGHT_FILES:
        path = bright.weights / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    packages = {"vbench": "0.0", "detectron2": "0.6"}
    bright.save_lock(Lock(python="3.11", pins=pins_digest(), packages=packages, weights={}))
    return bright


def calls(environment: Environment) -> list[tuple[str, str, int]]:  # noqa: F811
    """Dimension, process, and bytes of frames for each video that the stand-in was asked for."""
    path = environment.home / "calls"
    lines = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
    return [(name, process, int(size)) for name, process, size in lines]


def draw(count: int, seed: int = 0) -> list[np.ndarray]:
    """Videos of different brightness, of odd sizes."""
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 60 + 30 * index, (3, 97, 65, 3), dtype=np.uint8) for index in range(count)]


def brightness(video: np.ndarray) -> float:
    return float(video.mean()) / 255


def test_a_dimension_gives_each_video_its_points_and_sees_its_frames_without_loss(bright) -> None:
    videos, texts = draw(2), OTHERS
    scoring = find_score("vbench:temporal_flickering", bright).open(texts)
    expected = [points("temporal_flickering", brightness(video)) for video in videos]
    assert scoring(videos, texts) == pytest.approx(expected, abs=1e-9)
    assert [size for _, _, size in calls(bright)] == [3 * (3 * 97) * (3 * 65) * 3] * 2  # enlarged three times


def test_many_videos_are_scored_in_one_process_and_no_content_twice(bright) -> None:
    videos, texts = draw(4), [OTHERS[0]] * 4
    score = find_score("vbench:temporal_flickering", bright)
    first = score.open(texts)([*videos[:3], videos[0].copy()], texts)
    assert first[3] == first[0]
    assert len(calls(bright)) == 3
    assert len({process for _, process, _ in calls(bright)}) == 1
    again = find_score("vbench:temporal_flickering", bright).open(texts)(videos[1:], texts[1:])
    assert again[:2] == first[1:3]
    assert len(calls(bright)) == 4


def test_quality_is_the_weighted_mean_of_six_dimensions_of_any_prompt(complete) -> None:
    (video,) = draw(1)
    found = find_score("vbench-quality", complete).open(OTHERS)([video], OTHERS[:1])
    names = [name for name, scale in SCALES.items() if scale.group == "quality" and name != "dynamic_degree"]
    assert found == pytest.approx([np.mean([points(name, brightness(video)) for name in names])], abs=1e-9)
    assert [name for name, _, _ in calls(complete)] == names


def test_the_total_of_prompts_is_the_mean_of_their_points(complete) -> None:
    """As VBench adds it up: of each dimension the mean over its suite, then the weighted sum of them."""
    videos = dict(zip(OWN, draw(len(OWN)), strict=True))
    score = find_score("vbench", complete)
    found = score.open(OWN)(list(videos.values()), OWN)
    raw = {
        name: np.mean([brightness(videos[prompt]) for prompt in OWN if any(
            each["prompt_en"] == prompt and name in each["dimension"] for each in SUITES)])
        for name in DIMENSIONS
    }  # fmt: skip
    assert score.is_of_all
    assert np.mean(found) == pytest.approx(total_score(raw), abs=1e-9)
    counted = Counter(name for name, _, _ in calls(complete))
    assert set(counted) == set(DIMENSIONS)
    assert (counted["color"], counted["subject_consistency"], counted["scene"]) == (2, 2, 1)


def test_a_video_of_a_small_suite_can_lose_more_than_100_points_of_the_total(complete) -> None:
    """A verdict bets on the largest loss of a video: by 100 points it was wrong for the total, and a loss of more ended it."""
    of_prompt = {
        text: {name for each in SUITES if each["prompt_en"] == text for name in each["dimension"]} for text in OWN
    }
    sizes = Counter(name for names in of_prompt.values() for name in names)
    weights = {name: weight * len(OWN) / sizes[name] for name, weight in total_weights().items()}
    assert sum(weights[name] for names in of_prompt.values() for name in names) == pytest.approx(len(OWN))
    largest = [
        sum(weights[name] * (points(name, 1.0) - points(name, 0.0)) for name in names) for names in of_prompt.values()
    ]
    assert find_score("vbench", complete).scale(OWN) == pytest.approx(max(largest))
    # Points of a dimension are not clipped either: a scene that is gone from all frames costs more than 100.
    assert find_score("vbench:scene", complete).scale(
        [each for each in OWN if "scene" in of_prompt[each]]
    ) == pytest.approx(100 / 0.8222)
    assert Budget.parse("vbench:scene>=-1", 122.0).largest_loss == 122.0
    assert max(largest) > 100


def test_a_video_in_which_a_dimension_does_not_find_the_object_is_worth_nothing_there(complete) -> None:
    """VBench leaves it out of its mean, and where it is the only one fails: a lost object is a loss."""
    black, texts = np.zeros((2, 32, 32, 3), np.uint8), ["a red bicycle"]
    assert find_score("vbench:color", complete).open(texts)([black], texts) == [points("color", 0.0)]
    with pytest.raises(BudgetError, match="the score 'vbench:scene' failed: scene: 1 of 1 new videos have no value"):
        find_score("vbench:scene", complete).open(["a street"])([black], ["a street"])


@pytest.mark.parametrize(
    ("name", "prompts", "message"),
    [
        ("vbench-quality", OTHERS, "subject_consistency cannot run: dino_model/.* is missing; all that is missing: pabtune "
         "vbench doctor"),
        ("vbench", OWN, "subject_consistency cannot run"),
        ("vbench:color", OTHERS, "color cannot run: the package detectron2 is missing"),
    ],
)  # fmt: skip
def test_what_a_dimension_lacks_is_told_in_one_line(bright, name, prompts, message) -> None:
    with pytest.raises(BudgetError, match=message) as refused:
        find_score(name, bright).open(prompts)
    assert "\n" not in str(refused.value)
    assert f"the score {name!r}" in str(refused.value)


@pytest.mark.parametrize(
    ("name", "prompts", "message"),
    [
        ("vbench", OTHERS, "is of VBench's own prompts, but 2 of 2 are others, the first is 'a red square moves left'"),
        ("vbench", ["a cat", *OTHERS], "but 2 of 3 are others"),
        ("vbench", ["a cat", "a dog"], "needs prompts of every dimension's suite, but none of these 2 is of "
         "background_consistency"),
        ("vbench:color", ["a blue car", "a cat"], "color scores only VBench's own prompts of its suite, but got 'a cat'"),
    ],
)  # fmt: skip
def test_prompts_that_a_score_does_not_take_are_told(complete, name, prompts, message) -> None:
    with pytest.raises(BudgetError, match=message):
        find_score(name, complete).open(prompts)


def test_prompts_that_it_was_not_opened_for_are_no_zeros(bright) -> None:
    with pytest.raises(ValueError, match="opened for other prompts than 'a blue cross stands still'"):
        find_score("vbench:temporal_flickering", bright).open(OTHERS[:1])(draw(1), OTHERS[1:])


def test_without_an_environment_it_says_how_to_get_one(tmp_path) -> None:
    with pytest.raises(BudgetError, match="VBench is not installed here; run: pabtune vbench setup"):
        find_score("vbench-quality", Environment(tmp_path)).open(OTHERS)


def test_an_evaluation_scores_a_batch_of_all_policies_in_one_process(bright, pipeline) -> None:
    videos: dict[str, list] = {}
    found = evaluate(
        pipeline, [PRESETS["none"], pyramid()], PROMPTS[:1] + PROMPTS[3:], STEPS, batch_size=2,
        score=find_score("vbench:temporal_flickering", bright),
        on_videos=lambda name, batch, made: videos.setdefault(name, []).extend(made),
    )  # fmt: skip
    expected = {
        name: [points("temporal_flickering", brightness(video)) for video in made] for name, made in videos.items()
    }
    assert [each.score_name for each in found] == ["vbench:temporal_flickering"] * 2
    assert found[0].drops == (0.0, 0.0)
    assert found[1].baseline_scores == pytest.approx(expected["reference"], abs=1e-9)
    assert found[1].scores == pytest.approx(expected["pyramid"], abs=1e-9)
    assert max(map(abs, found[1].drops)) > 0
    assert len({process for _, process, _ in calls(bright)}) == 2  # the warm-up, and the batch


def test_a_trial_scores_a_batch_in_one_process_and_its_references_once(bright, pipeline, tmp_path) -> None:
    measured = profile(pipeline, PROMPTS[:2], STEPS, name="small", batch_size=2)
    settings = Settings(steps=STEPS, batch_size=2)
    references = References(tmp_path / "references", pipeline, settings, measured.made_for)
    budget = Budget(score="vbench:temporal_flickering", largest_drop=50.0)
    score = find_score(budget.score, bright)
    runner = TrialRunner(pipeline, measured, PROMPTS[:2], budget, settings, references, score=score)
    outcome = runner.try_out(pyramid())
    assert outcome.is_feasible
    assert abs(outcome.measured.drop) > 0
    assert len(calls(bright)) == 4
    assert runner.try_out(PRESETS["none"]).measured.drop == 0.0
    assert len(calls(bright)) == 4
    assert len({process for _, process, _ in calls(bright)}) == 1


def test_videos_are_handed_over_at_the_rate_of_their_model(bright, monkeypatch) -> None:
    """And known by it: at another rate `dynamic_degree` looks at other frames."""
    video, rates, plain = draw(1)[0], [], module._save

    def save(path, video, rate):
        rates.append(rate)
        plain(path, video, rate)
        assert imageio_ffmpeg.count_frames_and_secs(path)[1] == pytest.approx(len(video) / rate, abs=0.02)

    monkeypatch.setattr(module, "_save", save)
    score = find_score("vbench:temporal_flickering", bright)
    for rate in (24, 24, 8):
        score.open(["a"], rate)([video], ["a"])
    assert rates == [24, 8]
