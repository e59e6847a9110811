"""Frames that several processes decode together are those of one."""

import pytest

from pabtune.models.tiling import one_by_one
from pabtune.parallel.decoding import assign, busiest_load, choose_tiling, split_decoder
from pabtune.records.errors import ParallelError
from tests.parallel.cases_pipelines import DECODED
from tests.pipelines.cases import CASES


@pytest.mark.parametrize(
    ("processes", "names"),
    [
        (2, ("latte", "wan-2.1")),
        *(pytest.param(many, tuple(DECODED), marks=pytest.mark.slow) for many in (2, 3)),
    ],
)
def test_frames_decoded_together_are_those_of_one_process(processes, names, together) -> None:
    for rows in together(processes, "decoding", names):
        hows = {row["how"] for row in rows}
        assert hows >= {"frames", "blended tiles where that is faster"}
        assert ("the VAE's own tiles" in hows) == ("open-sora-plan-1.1" in names)
        for row in rows:
            assert row["error"] < 1e-5, row
            assert row["restored"] == 0, row
            assert row["messages"] > 1, row
            # Networks without training feel the edges of tiles; parts in the wrong place are 1 or more apart.
            assert row["apart"] < 0.3, row


@pytest.mark.parametrize("processes", [2, 3, 4, 7, 8, 16])
@pytest.mark.parametrize(("height", "width"), [(60, 106), (64, 64), (90, 160), (32, 32)])
def test_the_busiest_process_decodes_about_its_share(height, width, processes) -> None:
    """Overlaps cost: up to twice the share, where there are many small tiles."""
    tiling = choose_tiling(height, width, processes)
    assert busiest_load(tiling, height, width, processes) / (height * width) < min(0.76, 2.0 / processes)
    for side in (height, width):
        places = tiling.places(side)
        assert places[-1].stop == side
        # None lies in the one before: it would fade into what was made of a strip without surroundings.
        assert all(place.stop < side for place in places[:-1])
    assert len(tiling.places(height)) * len(tiling.places(width)) <= 3 * processes


@pytest.mark.parametrize(("side", "processes"), [(64, 1), (8, 2), (5, 4)])
def test_what_sharing_would_hardly_speed_up_is_not_cut(side, processes) -> None:
    tiling = choose_tiling(side, side, processes)
    assert [place.stop for place in tiling.places(side)] == [side]


def test_every_process_gets_about_as_much() -> None:
    assert assign([9, 1, 1, 7, 2], 2) == [0, 0, 1, 1, 1]
    assert assign([4, 4, 4], 3) == [0, 1, 2]


class Undone:
    """Takes note of patches."""

    everyone = None

    def patch(self, owner, name, value) -> None:
        raise AssertionError


def test_what_cannot_be_shared_is_left_or_refused() -> None:
    class Unknown:
        vae = object()

    assert split_decoder(Undone(), Unknown()) is None
    untiled = CASES["open-sora-plan-1.1"].build()
    assert not untiled.vae.use_tiling
    assert split_decoder(Undone(), untiled) is None
    with pytest.raises(ParallelError, match="the number of pixels per latent of Unknown is unknown"):
        split_decoder(Undone(), Unknown(), use_tiles=True)
    assert one_by_one(lambda part: part + 1, [1, 2]) == [2, 3]
