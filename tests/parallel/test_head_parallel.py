"""Models without a plan, whose work is shared inside sites: on several processes, against one and against the prediction."""

import pytest

from tests.parallel.conftest import check
from tests.parallel.predict_heads import UNPREDICTED

FAST = ["motif", "ltx-2"]
SLOW = ["helios", "ltx-2.3", "skyreels-v2-forcing-long", "skyreels-v2-forcing-asynchronous"]


@pytest.mark.parametrize(
    ("processes", "names"), [(2, FAST), pytest.param(3, FAST, marks=pytest.mark.slow)]
    + [pytest.param(2, [name], marks=pytest.mark.slow) for name in SLOW],
)  # fmt: skip
def test_kernels_by_heads_and_tokens_of_mlps_give_the_same_video(processes, names, together, monkeypatch) -> None:
    """A broadcast sends nothing, and leaves the counts at those of what computes."""
    for rows in together(processes, "inside", names):
        check(rows)
        assert {row["name"] for row in rows} == set(names)
        for row in rows:
            assert row["predicted"] or row["name"] in UNPREDICTED
        full, under = (
            [row["sent"][1] for row in rows if (row["policy"] == "none") == is_full] for is_full in (True, False)
        )
        assert all(0 < few < many for few, many in zip(under, full, strict=True))


def test_masks_that_differ_by_head_are_cut_whatever_their_dimensions(together) -> None:
    """Those of three, which torch takes to be of heads, ended in torch's error."""
    for rows in together(2, "masks_of_heads"):
        assert len(rows) == 5
        assert all(row["error"] < 1e-5 for row in rows), rows
