import numpy as np
import pytest

from pabtune.models.shapes.world import (
    COLORS,
    FRAME_SIZE,
    FRAMES,
    MOTIONS,
    SHAPES,
    Scene,
    all_scenes,
    coverage,
    kinematics,
    render,
    scenes,
)  # fmt: skip


def test_the_world_is_as_rich_as_promised() -> None:
    everything = list(all_scenes())
    assert len(SHAPES) >= 4
    assert len(COLORS) >= 6
    assert {"still", "left", "right", "up", "down", "bouncing", "rotating"} == set(MOTIONS)
    assert len(everything) == len(set(everything)) == 3600
    assert {scene.content for scene in everything} == {"still", "slow", "fast"}


def test_the_split_is_fixed_and_complete() -> None:
    train, held_out = set(scenes("train")), set(scenes("held-out"))
    assert not train & held_out
    assert len(train | held_out) == 3600
    assert 0.15 < len(held_out) / 3600 < 0.25


def test_clips_are_reproducible_and_move() -> None:
    scene = Scene(shape="square", color="red", size="small", motion="left", speed="fast", background="black")
    clip = render(scene, np.random.default_rng(1))
    assert clip.shape == (FRAMES, FRAME_SIZE, FRAME_SIZE, 3)
    assert clip.dtype == np.uint8
    assert (clip == render(scene, np.random.default_rng(1))).all()
    assert (clip[2:3] == render(scene, np.random.default_rng(1), slice(2, 3))).all()
    red = clip[..., 0].astype(float) - clip[..., 1]
    centers = [(frame.sum(0) @ np.arange(FRAME_SIZE)) / frame.sum() for frame in red]
    np.testing.assert_allclose(np.diff(centers), -1, atol=0.05)


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_cover_about_the_same_area(shape) -> None:
    area = coverage(shape, 5.0, np.full((FRAMES, 2), 12.0), np.zeros(FRAMES))[0].sum()
    assert 0.8 < area / (np.pi * 25) < 1.1


def test_fast_is_faster_than_slow() -> None:
    for motion in MOTIONS[1:]:
        slow, fast = kinematics(motion, "slow"), kinematics(motion, "fast")
        assert sum(np.ptp(part, axis=0).sum() for part in fast) == pytest.approx(
            2 * sum(np.ptp(part, axis=0).sum() for part in slow)
        )
