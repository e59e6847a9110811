"""Frames that several processes decode together are those of one."""

import pytest

from pabtune.models.tiling import one_by_one
from pabtune.parallel.decoding import choose_squares, split_decoder
from pabtune.records.errors import ParallelError


@pytest.mark.parametrize("processes", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_frames_decoded_together_are_those_of_one_process(processes, together) -> None:
    for rows in together(processes, "decoding"):
        assert {row["how"] for row in rows} == {"frames", "squares"}
        for row in rows:
            assert row["error"] < 1e-5, row
            assert row["restored"] == 0, row
            assert row["messages"] > 1, row
            assert row["apart"] < 0.1, row


@pytest.mark.parametrize("processes", [1, 2, 3, 4, 7, 8, 16])
@pytest.mark.parametrize(("height", "width"), [(60, 106), (64, 64), (12, 20)])
def test_there_is_a_square_for_every_process(height, width, processes) -> None:
    tiling = choose_squares(height, width, processes)
    counts = [len(list(tiling.squares(side))) if side > tiling.size else 1 for side in (height, width)]
    assert counts[0] * counts[1] >= min(processes, 4)
    if min(height, width) > 32:
        assert counts[0] * counts[1] >= processes


class Undone:
    """Takes note of patches."""

    everyone = None

    def patch(self, owner, name, value) -> None:
        raise AssertionError


def test_what_cannot_be_shared_is_left_or_refused() -> None:
    class Unknown:
        vae = object()

    assert split_decoder(Undone(), Unknown()) is None
    with pytest.raises(ParallelError, match="nothing tells how many pixels a latent of Unknown has"):
        split_decoder(Undone(), Unknown(), squares=True)
    assert one_by_one(lambda part: part + 1, [1, 2]) == [2, 3]
