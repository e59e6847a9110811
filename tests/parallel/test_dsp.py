"""Each way of exchanging along a split axis, on the attention module alone, by real processes."""

import pytest


@pytest.mark.parametrize("processes", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_every_way_gives_each_process_its_frames_of_the_whole(processes, together) -> None:
    """Odd frames, tokens and heads, one frame, and more frames than plain products are used for."""
    for rows in together(processes, "ways"):
        assert len(rows) == 4 * 2 * 3
        assert {row["way"] for row in rows} == {"dsp", "ulysses", "megatron-sp"}
        for row in rows:
            assert row["shape"] == row["own"], row
            assert row["apart"] < 1e-5, row
