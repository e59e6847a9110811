import numpy as np
import pytest

from pabtune.quality.enlarging import enlarge, enlargement
from pabtune.quality.measures import MEASURES, load_measures
from pabtune.records.errors import MeasureError


def test_a_measure_is_found_by_its_name_and_loaded() -> None:
    measures = load_measures(["temporal", "vmaf"])
    assert list(measures) == ["temporal", "vmaf"]
    video = np.zeros((2, 24, 24, 3), np.uint8)
    assert measures["temporal"](video, video) == 0
    assert load_measures([]) == {}


def test_an_unknown_measure_is_refused() -> None:
    with pytest.raises(MeasureError, match="unknown measure 'beauty'; known measures: vmaf, temporal, lpips"):
        load_measures(["temporal", "beauty"])


@pytest.mark.parametrize(
    ("height", "width", "factor"), [(24, 24, 8), (23, 99, 9), (192, 300, 1), (1080, 1920, 1), (191, 400, 2)]
)
def test_small_frames_are_enlarged_by_a_whole_factor(height, width, factor) -> None:
    assert MEASURES["vmaf"].enlarged(height, width) == enlargement(height, width, 192) == factor
    assert MEASURES["temporal"].enlarged(height, width) == 1


def test_enlarged_pixels_are_squares() -> None:
    video = np.arange(24, dtype=np.uint8).reshape(1, 2, 4, 3)
    large = enlarge(video, 3)
    assert large.shape == (1, 6, 12, 3)
    assert (large == np.kron(video, np.ones((1, 3, 3, 1), np.uint8))).all()


def test_what_the_table_says_of_lpips_is_what_it_does() -> None:
    from pabtune.quality import lpips

    assert MEASURES["lpips"].least_side == lpips.LEAST_SIDE
