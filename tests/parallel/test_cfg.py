"""Samples of a call and guidance branches, shared by real processes."""

import pytest

from tests.parallel.conftest import check


@pytest.mark.parametrize("processes", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_two_prompts_are_drawn_by_two_processes(processes, together) -> None:
    """On four, each of them has one guidance branch of one prompt, whether these come in one call or in turns."""
    for rows in together(processes, "batches"):
        check(rows)
        assert {tuple(row["layout"]) for row in rows} == {(2, processes // 2, 1)}
        assert all(row["sent"][1] for row in rows)


def test_a_run_that_is_stopped_between_two_branches_leaves_nothing(together) -> None:
    for rows in together(2, "stopped"):
        assert len(rows) == 6
        for row in rows:
            assert row["error"] < 1e-5, row
            assert row["messages"] == row["steps"], row


def test_what_cannot_be_shared_is_said_by_every_process(together) -> None:
    for rows in together(2, "refusals"):
        said = {row["name"]: row["said"] for row in rows}
        assert "the guidance branches of CosmosTransformer3DModel cannot be split" in said["cosmos-1"]
        assert "does not use torch's attention kernel; its work cannot be split" in said["sana-video"]
        for name in ("wan-2.1", "latte"):
            assert "a call must have a multiple of 2 samples, but has 1: is guidance on" in said[name]
