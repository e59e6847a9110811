"""The traps that a score for videos falls into: each has a test."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from pabtune.models.shapes.captions import describe
from pabtune.models.shapes.world import COLORS, FRAMES, Scene, all_scenes, render
from pabtune.quality.shapes import score_clip
from pabtune.testing.damages import DAMAGES

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


SCENE = Scene(shape="square", color="red", size="medium", motion="right", speed="slow", background="black")


def clip(**changes: str | None) -> np.ndarray:
    return render(replace(SCENE, **changes), np.random.default_rng(0))


def of_two_sizes() -> np.ndarray:
    """A square that grows and shrinks from frame to frame."""
    return np.stack([(clip(size="small"), clip(size="large"))[frame % 2][frame] for frame in range(FRAMES)])


def shaking() -> np.ndarray:
    return np.stack([np.roll(frame, 2 if index % 2 else -2, axis=0) for index, frame in enumerate(clip())])


def in_pieces() -> np.ndarray:
    pieces = clip()
    pieces[:, :4, :4] = pieces[:, -4:, -4:] = COLORS[SCENE.color]
    return pieces


def flickering() -> np.ndarray:
    return clip_of(clip() + 25.0 * (np.arange(FRAMES) % 2)[:, None, None, None])


def noisy() -> np.ndarray:
    return clip_of(clip() + np.random.default_rng(0).normal(0, 12, clip().shape))


def faded() -> np.ndarray:
    gray = clip().mean(-1, keepdims=True)
    return clip_of(gray + 0.5 * (clip() - gray))


def ringing() -> np.ndarray:
    """The outline as a careless sharpening leaves it, nothing else."""
    smooth = gaussian_filter(clip().astype(float), (0, 1, 1, 0))
    return clip_of(clip() + 0.8 * (clip() - smooth))


HARMS = {
    "presence": lambda: clip(size="small"),
    "shape": lambda: clip(shape="circle"),
    "color": lambda: clip(color="pink"),
    "background": lambda: clip(background="white"),
    "motion": lambda: clip(motion="left"),
    "smooth": shaking,
    "steady": of_two_sizes,
    "flicker_free": flickering,
    "whole": in_pieces,
    "clean": noisy,
    "sharp": lambda: clip_of(gaussian_filter(clip().astype(float), (0, 0.7, 0.7, 0))),
}


@pytest.mark.parametrize("part", HARMS)
def test_each_part_of_the_score_sees_its_own_harm(part) -> None:
    """Fault 27: no part may be replaced by 1, and each counts as the score's description says."""
    good, bad = (score_clip(each, describe(SCENE, np.random.default_rng(0))) for each in (clip(), HARMS[part]()))
    assert min((*good.content.values(), *good.picture.values())) > 0.95
    assert {**bad.content, **bad.picture}[part] < 0.8
    for score in (good, bad):
        content = np.prod([max(each, 0.02) for each in score.content.values()]) ** (1 / 5)
        picture = sum(score.picture.values()) / 6
        assert score.score == pytest.approx(100 * (content * picture) ** 0.5)


@pytest.mark.parametrize(("part", "harm"), [("color", faded), ("sharp", ringing)])
def test_a_part_sees_harm_in_either_direction(part, harm) -> None:
    """A colour of the right hue that faded; an outline that is too hard. Before, neither cost anything."""
    score = score_clip(harm(), describe(SCENE, np.random.default_rng(0)))
    assert {**score.content, **score.picture}[part] < 0.7
    assert score.score < score_clip(clip(), describe(SCENE, np.random.default_rng(0))).score - 2


@pytest.mark.parametrize("name", DAMAGES)
def test_every_grade_of_a_damage_costs(name) -> None:
    """What people see, the score sees: the more of it, the more it costs."""
    damage = DAMAGES[name]
    scenes = [SCENES[index] for index in np.random.default_rng(2).choice(len(SCENES), 24, replace=False)]
    scenes = [scene for scene in scenes if not (damage.needs_motion and scene.motion == "still")]
    clips = [render(scene, np.random.default_rng(at)) for at, scene in enumerate(scenes)]
    prompts = [describe(scene, np.random.default_rng(at)) for at, scene in enumerate(scenes)]
    means = [float(np.mean([score_clip(*each).score for each in zip(clips, prompts, strict=True)]))]
    for amount in damage.amounts:
        harmed = [
            damage.apply(video, amount, other, at)
            for at, (video, other) in enumerate(zip(clips, clips[7:] + clips[:7], strict=True))
        ]
        means.append(float(np.mean([score_clip(*each).score for each in zip(harmed, prompts, strict=True)])))
    assert all(before > after for before, after in zip(means, means[1:], strict=False)), means
