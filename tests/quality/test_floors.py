from math import inf

import pytest

from pabtune.quality.floors import Floor, missing_db
from pabtune.records.errors import BudgetError


@pytest.mark.parametrize(
    ("ours", "floor", "expected"),
    [
        ([50.0] * 9 + [20.0], [40.0] * 10, 20.0),  # closer in the mean, but the worst is further
        ([30.0] * 10, [40.0] * 9 + [30.0], 9.0),  # the worst are alike, but the mean is further
        ([42.0, 41.0], [40.0, 40.0], -1.0),
        ([40.0] * 3, [40.0] * 3, 0.0),
        ([30.0, *[50.0] * 19], [10.0, *[45.0] * 19], -5.0 - 0.75),  # the worst tenth is two videos of twenty
    ],
)
def test_what_is_missing_to_a_floor_is_missing_in_the_mean_or_in_the_worst_tenth(ours, floor, expected) -> None:
    """Fault 27: the larger of both, whatever the order of the videos."""
    assert missing_db(ours, floor) == pytest.approx(expected)
    assert missing_db(ours[::-1], floor) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("texts", "floor", "shown"),
    [
        (("pab246",), Floor(preset="pab246"), "pab246"),
        (("psnr>=38",), Floor(psnr_db=38.0), "psnr>=38"),
        ((" worst-psnr >= 32.5 ",), Floor(worst_psnr_db=32.5), "worst-psnr>=32.5"),
        (("worst-psnr>=32", "pab357", "psnr>=38"), Floor(preset="pab357", psnr_db=38.0, worst_psnr_db=32.0),
         "pab357, psnr>=38, worst-psnr>=32"),
    ],
)  # fmt: skip
def test_floors_are_read_and_shown(texts, floor, shown) -> None:
    assert Floor.parse(*texts) == floor
    assert str(floor) == shown
    assert Floor.parse(*shown.split(", ")) == floor


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (("pab999",), "a floor is psnr>=DB, worst-psnr>=DB, or a preset"),
        (("none", "psnr>=38"), "a floor is psnr>=DB"),
        (("psnr>=nan",), "a floor is psnr>=DB"),
        (("psnr>=-3",), "a floor is psnr>=DB"),
        (("psnr>=٣",), "a floor is psnr>=DB"),
        (("ssim>=0.9",), "a floor is psnr>=DB"),
        (("psnr>=101",), "between 0 and the 100 dB of identical videos, not at 101"),
        (("psnr>=3", "psnr>=4"), "two floors of one kind"),
        (("pab246", "pab357"), "two floors of one kind: 'pab246' and 'pab357'"),
    ],
)
def test_what_is_no_floor_is_refused(texts, message) -> None:
    with pytest.raises(BudgetError, match=message):
        Floor.parse(*texts)


def test_values_are_checked_when_a_floor_is_made() -> None:
    with pytest.raises(BudgetError, match="'pab999' is no preset for a floor; there are pab246"):
        Floor(preset="pab999")
    for value in (-1.0, float("nan"), float("inf")):
        with pytest.raises(BudgetError, match="a floor lies between 0"):
            Floor(worst_psnr_db=value)


def test_the_floor_that_is_missed_most_counts() -> None:
    psnrs, of_preset = [40.0, 36.0], [39.0, 39.0]
    assert Floor(psnr_db=39.0).missing_db(psnrs) == pytest.approx(1.0)
    assert Floor(worst_psnr_db=35.0).missing_db(psnrs) == pytest.approx(-1.0)
    assert Floor(psnr_db=37.0, worst_psnr_db=38.5).missing_db(psnrs) == pytest.approx(2.5)
    assert Floor(preset="pab246", psnr_db=38.5).missing_db(psnrs, of_preset) == pytest.approx(3.0)
    assert Floor().missing_db(psnrs) == -inf


def test_means_may_still_rise_but_the_worst_video_cannot() -> None:
    psnrs = [40.0, 36.0]
    assert Floor(preset="pab246", psnr_db=39.0).margins(psnrs, [39.0, 39.0]) == [[-1.0, 3.0], [-1.0, 3.0]]
    assert Floor(worst_psnr_db=36.5).margins(psnrs) == []
    assert Floor(worst_psnr_db=36.5).is_lost(psnrs)
    assert not Floor(worst_psnr_db=36.0).is_lost(psnrs)
    assert not Floor(psnr_db=90.0).is_lost(psnrs)
