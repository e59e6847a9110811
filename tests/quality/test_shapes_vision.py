import numpy as np
import pytest

from pabtune.models.shapes.world import FRAMES, SHAPES, all_scenes, coverage, render
from pabtune.quality.shapes_vision import RADIUS_PER_SQRT_AREA, hue_distance, look


def test_everything_rendered_is_seen_right() -> None:
    rng = np.random.default_rng(0)
    everything = list(all_scenes())
    wrong = []
    for index in rng.choice(len(everything), 300, replace=False):
        scene = everything[index]
        seen = look(render(scene, rng))
        names = ("shape", "color", "motion", "speed", "background")
        wrong += [scene for name in names if getattr(scene, name) != getattr(seen, name)]
    assert len(wrong) <= 3, wrong


@pytest.mark.parametrize("shape", SHAPES)
def test_radius_per_area(shape) -> None:
    area = coverage(shape, 6.0, np.full((FRAMES, 2), 12.0), np.zeros(FRAMES))[0].sum()
    assert 6.0 / np.sqrt(area) == pytest.approx(RADIUS_PER_SQRT_AREA[shape], abs=0.005)


def test_hues() -> None:
    assert hue_distance((200, 0, 0), (100, 0, 0)) == pytest.approx(0)
    assert hue_distance((200, 0, 0), (0, 200, 200)) == pytest.approx(180)


def test_grey_clips_show_nothing_and_other_sizes_are_refused() -> None:
    seen = look(np.full((8, 24, 24, 3), 128, np.uint8))
    assert seen.shape is None
    assert seen.background == "gray"
    with pytest.raises(ValueError, match="a clip must be"):
        look(np.zeros((4, 24, 24, 3), np.uint8))
