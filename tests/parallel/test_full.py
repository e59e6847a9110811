"""Tokens of full attention, split: real pipelines on several processes, against one and against the prediction."""

import pytest

from pabtune.records.sites import UNITS
from tests.parallel.conftest import check
from tests.parallel.models import WITH_BLOCKS


def test_a_first_block_that_is_broadcast_gets_its_part_of_the_tokens(together) -> None:
    for rows in together(2, "blocks"):
        check(rows)
        assert {(row["name"], row["policy"]) for row in rows} == {
            (name, kind) for name in WITH_BLOCKS for kind in UNITS
        }


@pytest.mark.parametrize(
    "processes", [2, pytest.param(3, marks=pytest.mark.slow), pytest.param(4, marks=pytest.mark.slow)]
)
def test_full_attention_is_shared_by_heads(processes, together) -> None:
    """With text beside the video and without, on lengths and heads that are not divided; a broadcast sends nothing."""
    for rows in together(processes, "pipelines"):
        check(rows)
        assert all(row["predicted"] for row in rows)
