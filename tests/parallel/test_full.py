"""Tokens of full attention, split: real pipelines on several processes, against one and against the prediction."""

import pytest

from tests.parallel.conftest import check


@pytest.mark.parametrize(
    "processes", [2, pytest.param(3, marks=pytest.mark.slow), pytest.param(4, marks=pytest.mark.slow)]
)
def test_full_attention_is_shared_by_heads(processes, together) -> None:
    """With text beside the video and without, on lengths and heads that are not divided; a broadcast sends nothing."""
    for rows in together(processes, "pipelines"):
        check(rows)
        assert all(row["predicted"] for row in rows)
