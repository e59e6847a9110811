import pytest
import torch

from pabtune.models.tiling import Tiling, tiled

TILING = Tiling(size=16, frames=5, overlap=0.25)


@pytest.mark.parametrize(
    ("frames", "runs"), [(1, [(0, 1)]), (5, [(0, 5)]), (6, [(0, 5), (4, 6)]), (9, [(0, 5), (4, 9)]), (2, [(0, 2)])]
)
def test_runs_share_a_frame_and_cover_all(frames, runs) -> None:
    assert [(run.start, run.stop) for run in TILING.runs(frames)] == runs


def double(part: torch.Tensor) -> torch.Tensor:
    """Twice the size, and 1 + n frames become 1 + 2·n."""
    part = part.repeat_interleave(2, 3).repeat_interleave(2, 4)
    return torch.cat([part[:, :, :1], part[:, :, 1:].repeat_interleave(2, 2)], 2)


@pytest.mark.parametrize("size", [(9, 16, 16), (5, 20, 16), (6, 40, 33), (1, 17, 50)])
def test_what_works_on_each_place_alone_has_no_overlaps(size) -> None:
    video = torch.randn(2, 3, *size, dtype=torch.float64)
    torch.testing.assert_close(tiled(double, video, TILING, 2.0), double(video))


@pytest.mark.parametrize("keeps_remainder", [True, False])
@pytest.mark.parametrize("size", range(9, 24))
def test_tiles_of_any_size_fit_together(size, keeps_remainder) -> None:
    video = torch.randn(1, 2, 1, 17, 45, dtype=torch.float64)
    tiling = Tiling(size=size, frames=5, overlap=0.25, keeps_remainder=keeps_remainder)
    torch.testing.assert_close(tiled(double, video, tiling, 2.0), double(video))


def test_overlaps_go_over_from_one_square_to_the_next() -> None:
    parts = iter([1.0, 2.0])
    made = tiled(lambda part: torch.full_like(part, next(parts)), torch.zeros(1, 1, 1, 4, 20), TILING, 1.0)
    assert made[0, 0, 0, 0].tolist() == [1.0] * 12 + [1.0, 1.25, 1.5, 1.75] + [2.0] * 4


def test_a_rest_that_lies_in_the_square_before_may_be_left_out() -> None:
    kept, left = (Tiling(size=16, frames=5, overlap=0.25, keeps_remainder=keeps) for keeps in (True, False))
    assert [(place.start, place.stop) for place in kept.places(28)] == [(0, 16), (12, 28), (24, 28)]
    assert [(place.start, place.stop) for place in left.places(28)] == [(0, 16), (12, 28)]
    assert left.places(29) == kept.places(29)


def test_what_fits_is_not_cut() -> None:
    calls = []
    tiled(lambda part: calls.append(part.shape) or part, torch.zeros(1, 1, 5, 16, 16), TILING, 1.0)
    assert calls == [(1, 1, 5, 16, 16)]
