"""Tokens of full attention, split: real pipelines on several processes, against one and against the prediction."""

import pytest

from pabtune.records.sites import BLOCKS
from tests.parallel.by_card import token_cases
from tests.parallel.cases_pipelines import UNPREDICTED, WITH_BLOCKS
from tests.parallel.conftest import check

FAST = ["wan-2.2", "hunyuan-true-cfg"]
"""Without text beside the video and with it."""


def check_each(rows: list[dict]) -> None:
    """Kandinsky's rotary embeddings are in 16 bits, whatever the weights are in."""
    assert rows
    for row in rows:
        check([row], tolerance=1e-4 if row["name"] == "kandinsky-5" else 1e-5)


@pytest.mark.slow
def test_a_first_block_that_is_broadcast_gets_its_part_of_the_tokens(together) -> None:
    for rows in together(2, "blocks"):
        check_each(rows)
        assert all(row["broadcast"] for row in rows)
        assert {(row["name"], row["policy"]) for row in rows} == {
            (name, kind) for name in WITH_BLOCKS for kind in (*BLOCKS, "transformer")
        }


def test_a_class_of_ones_own_is_split_by_its_card(together) -> None:
    """Without one the work inside sites is shared, and branches that come one after the other are not known as such."""
    for tokens, inside, branches, unknown in together(2, "own_class"):
        assert (tokens["by_card"], tokens["purposes"]) == (True, ["full", "output"])
        assert (inside["by_card"], inside["purposes"]) == (False, ["full", "mlp"])
        assert (branches["by_card"], branches["purposes"]) == (True, ["output"])
        assert max(row["error"] for row in (tokens, inside, branches)) < 1e-5
        assert "a call must have a multiple of 2 samples, but has 1" in unknown["said"]


def test_each_token_has_its_timestep(together) -> None:
    for rows in together(2, "timesteps"):
        assert len(rows) == 4
        for row in rows:
            assert row["error"] < 1e-5, row


@pytest.mark.parametrize(
    ("processes", "names"),
    [(2, FAST), *(pytest.param(processes, token_cases(), marks=pytest.mark.slow) for processes in (2, 3, 4))],
)
def test_full_attention_is_shared_by_heads(processes, names, together) -> None:
    """With text beside the video and without, on lengths and heads that are not divided; a broadcast sends nothing."""
    for rows in together(processes, "pipelines", names):
        check_each(rows)
        assert all(row["predicted"] or row["name"] in UNPREDICTED for row in rows)
        assert {row["name"] for row in rows} == set(names)
        for name in names:
            sent = {
                row["policy"] == "none": row["sent"][1] for row in rows if row["name"] == name if row["layout"][2] > 1
            }
            assert 0 < sent[False] < sent[True], name
