"""Samples of a call and guidance branches, shared by real processes."""

import pytest

from tests.parallel.cases_pipelines import IN_BATCHES, IN_ONE_CALL, IN_TURNS
from tests.parallel.conftest import check


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "names"),
    [
        (2, ["wan-2.1"]),
        pytest.param(2, IN_BATCHES, marks=pytest.mark.slow),
        pytest.param(4, IN_BATCHES, marks=pytest.mark.slow),
    ],
)
def test_two_prompts_are_drawn_by_two_processes(processes, names, together) -> None:
    """On four, each of them has one guidance branch of one prompt, whether these come in one call or in turns."""
    for rows in together(processes, "batches", names):
        check(rows)
        assert {tuple(row["layout"]) for row in rows} == {(2, processes // 2, 1)}
        assert all(row["sent"][1] for row in rows)


@pytest.mark.slow
def test_a_run_that_is_stopped_between_two_branches_leaves_nothing(together) -> None:
    for rows in together(2, "stopped"):
        assert len(rows) == 6
        for row in rows:
            assert row["error"] < 1e-5, row
            assert row["messages"] == row["steps"], row


@pytest.mark.slow
def test_what_cannot_be_shared_is_said_by_every_process(together) -> None:
    for rows in together(2, "refusals"):
        said = {row["name"]: row["said"] for row in rows}
        assert "the guidance branches of CosmosTransformer3DModel cannot be split" in said["cosmos-1"]
        assert "does not use torch's attention kernel; its work cannot be split" in said["sana-video"]
        for name in ("wan-2.1", "latte"):
            assert "a call must have a multiple of 2 samples, but has 1: is guidance on" in said[name]


@pytest.mark.parametrize(
    "names", [("wan-2.1", "cogvideox-ddim"), pytest.param((*IN_TURNS, *IN_ONE_CALL), marks=pytest.mark.slow)]
)
def test_guidance_differences_of_a_split_sequence(names, together) -> None:
    """A call that does not happen sends nothing; half a call sends as many messages, with half of what is in them."""
    for rows in together(2, "guidance", names):
        check(rows)
        for name in names:
            plain, alone, mixed = (row for row in rows if row["name"] == name)
            happened, skipped = len(plain["calls"]), alone["broadcast"]
            assert mixed["broadcast"] > skipped > 0
            if name in IN_TURNS:
                assert len(alone["calls"]) == happened - skipped
                shares = [alone["sent"][0] / plain["sent"][0], alone["sent"][1] / plain["sent"][1]]
                assert shares == pytest.approx([1 - skipped / happened] * 2, rel=0.05)
            else:
                assert (len(alone["calls"]), alone["sent"][0]) == (happened, plain["sent"][0])
                assert alone["sent"][1] / plain["sent"][1] == pytest.approx(1 - skipped / happened / 2, rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("names", [("wan-2.1", "cogvideox-ddim")])
def test_all_processes_are_told_the_same_content_class_by_the_first_steps(names, together) -> None:
    """The sequence split, and branches that are asked for in turns on a process each."""
    several = together(2, "first_steps", names)
    assert [[row["told"] for row in rows] for rows in several] == [[row["alone"] for row in several[0]]] * 2
    assert len(several[0]) == 3 * 3
    for name in names:
        assert {row["told"] for row in several[0] if row["name"] == name} == {"still", "fast"}
    assert all(row["error"] < 1e-5 for rows in several for row in rows)


def test_guidance_differences_of_shared_branches_are_refused_before_anything_is_sent(together) -> None:
    for rows in together(2, "guidance_apart"):
        assert len(rows) == 3
        for row in rows:
            assert "its branches are on different processes; split the sequence alone" in row["said"]
            assert row["messages"] == 0


@pytest.mark.parametrize(
    "names", [["wan-2.1"], pytest.param([*IN_TURNS, "wan-2.2", "hunyuan-framepack"], marks=pytest.mark.slow)]
)
def test_whole_calls_of_branches_on_a_process_each(names, together) -> None:
    """The half that waits for a call kept a copy of what had no values yet: all of the video was NaN, in silence."""
    for rows in together(2, "whole_calls_apart", names):
        assert len(rows) == 2 * len(names)
        for row in rows:
            assert row["error"] < 1e-5, row
            assert row["broadcast"] > 0, row
            assert row["restored"] == 0, row
