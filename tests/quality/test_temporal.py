import numpy as np
import pytest

from pabtune.quality.temporal import temporal_error
from pabtune.records.errors import MeasureError


def video(*levels: int) -> np.ndarray:
    return np.stack([np.full((2, 3, 3), level, np.uint8) for level in levels])


@pytest.mark.parametrize(
    ("levels", "reference", "expected"),
    [
        ((10, 20, 30), (10, 20, 30), 0.0),
        ((60, 70, 80), (10, 20, 30), 0.0),  # wrong alike in all frames
        ((10, 10, 10), (10, 20, 40), 15.0),  # frozen: |0 - 10| and |0 - 20|
        ((100, 106, 100), (100, 100, 100), 6.0),  # flicker
        ((0, 255), (255, 0), 510.0),  # the largest there is
    ],
)
def test_by_hand(levels, reference, expected) -> None:
    assert temporal_error(video(*levels), video(*reference)) == expected


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ValueError, match="same shape"):
        temporal_error(video(1, 2), video(1, 2, 3))
    with pytest.raises(MeasureError, match="at least 2 frames, but got 1"):
        temporal_error(video(1), video(1))
