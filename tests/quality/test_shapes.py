"""The traps that a score for videos falls into: each has a test."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from pabtune.models.shapes.captions import describe
from pabtune.models.shapes.world import all_scenes, render
from pabtune.quality.shapes import score_clip

SCENES = list(all_scenes())


def clip_of(values: np.ndarray) -> np.ndarray:
    return np.clip(np.round(values), 0, 255).astype(np.uint8)


def mean_score(change: Callable[[np.ndarray, np.random.Generator], np.ndarray], still: bool = True) -> float:
    scores = []
    for index in np.random.default_rng(1).choice(len(SCENES), 60, replace=False):
        scene, rng = SCENES[index], np.random.default_rng(index)
        if scene.motion == "still" and not still:
            continue
        scores.append(score_clip(change(render(scene, rng), rng), describe(scene, rng)).score)
    return float(np.mean(scores))


REAL = mean_score(lambda clip, rng: clip)


def test_rendered_clips_score_near_the_top() -> None:
    assert REAL > 98


@pytest.mark.parametrize(
    ("harm", "amounts"),
    [
        (lambda amount: lambda clip, rng: clip_of(clip + rng.normal(0, amount, clip.shape)), (3, 8, 20)),
        (
            lambda amount: lambda clip, rng: clip_of(gaussian_filter(clip.astype(float), (0, amount, amount, 0))),
            (0.5, 1, 2),
        ),
        (lambda amount: lambda clip, rng: clip_of(clip + rng.normal(0, amount, (8, 1, 1, 1))), (3, 8, 20)),
    ],
    ids=["noise", "blur", "flicker"],
)
def test_more_harm_scores_less(harm, amounts) -> None:
    scores = [REAL, *(mean_score(harm(amount)) for amount in amounts)]
    assert all(before > after + 0.3 for before, after in zip(scores, scores[1:], strict=False)), scores


def test_a_frozen_or_shuffled_clip_loses_its_motion() -> None:
    assert mean_score(lambda clip, rng: np.repeat(clip[:1], 8, 0), still=False) < REAL - 15
    assert mean_score(lambda clip, rng: clip[rng.permutation(8)], still=False) < REAL - 15


def test_stutter_is_seen() -> None:
    assert mean_score(lambda clip, rng: clip[[0, 0, 2, 2, 4, 4, 6, 6]], still=False) < REAL - 3


def test_a_clean_but_wrong_clip_scores_low() -> None:
    other = mean_score(lambda clip, rng: render(SCENES[rng.integers(len(SCENES))], rng))
    assert other < 50


def test_nothing_and_noise_score_at_the_bottom() -> None:
    assert mean_score(lambda clip, rng: np.full_like(clip, 128)) == 0
    assert mean_score(lambda clip, rng: rng.integers(0, 255, clip.shape).astype(np.uint8)) < 30


def test_what_the_prompt_leaves_open_costs_nothing() -> None:
    scene = next(scene for scene in SCENES if scene.motion == "left" and scene.shape == "square")
    clip = render(scene, np.random.default_rng(0))
    assert score_clip(clip, f"a {scene.color} square").score > 98
    assert score_clip(clip, f"a {scene.color} square").is_right
    assert not score_clip(clip, f"a {scene.color} triangle").is_right
    assert not score_clip(clip, f"a {scene.color} square moves right").is_right
