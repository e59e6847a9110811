import numpy as np
import pytest

from pabtune.quality.temporal import temporal_error
from pabtune.testing.damages import DAMAGES

RNG = np.random.default_rng(0)
VIDEO, OTHER = RNG.integers(0, 255, (2, 8, 24, 24, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", DAMAGES)
def test_every_grade_is_a_copy_of_the_same_size_further_from_the_video_and_the_same_again(name) -> None:
    damage, untouched = DAMAGES[name], VIDEO.copy()
    smooth = np.repeat(np.repeat(VIDEO[:, :6, :6], 4, axis=1), 4, axis=2)
    distances = [0.0]
    for amount in damage.amounts:
        damaged = damage.apply(smooth, amount, OTHER, 3)
        assert (damaged.shape, damaged.dtype) == (VIDEO.shape, np.uint8)
        assert (damaged == damage.apply(smooth, amount, OTHER, 3)).all()
        distances.append(float(abs(damaged.astype(float) - smooth).mean()))
    assert (VIDEO == untouched).all()
    assert distances[1] > 0
    assert np.sort(distances[1:])[0] == distances[1]
    if name not in ("jerky", "shaking", "wrong motion"):  # of a video of chance, all other frames are alike far
        assert distances == sorted(distances)


def test_by_hand() -> None:
    def frames(name: str, amount: float) -> list[int]:
        times = np.broadcast_to(np.arange(8, dtype=np.uint8)[:, None, None, None], VIDEO.shape)
        return [int(frame.mean()) for frame in DAMAGES[name].apply(times, amount, times, 0)]

    assert frames("frozen", 2) == [0, 1, 2, 3, 4, 5, 5, 5]
    assert frames("frozen", 7) == [0] * 8
    assert frames("jerky", 3) == [0, 0, 0, 3, 3, 3, 6, 6]
    gray = np.full(VIDEO.shape, 100, np.uint8)
    assert temporal_error(DAMAGES["flicker"].apply(gray, 4, gray, 0), gray) == 8
    assert (DAMAGES["flicker of colours"].apply(gray, 0.5, gray, 0) == gray).all()
    assert (DAMAGES["two prompts blended"].apply(gray, 0.25, gray + 40, 0) == 110).all()
    assert DAMAGES["tint"].apply(gray, 8, gray, 0)[0, 0, 0].tolist() == [108, 100, 92]
