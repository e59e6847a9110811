from math import inf, nan

import pytest

from pabtune.quality.floors import Floor, Limit, missing_db
from pabtune.quality.measures import EVERY
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


def limit(measure: str, value: float, is_worst: bool = False) -> Limit:
    return Limit(
        measure=measure, relation=">=" if EVERY[measure].is_higher_better else "<=", value=value, is_worst=is_worst
    )


@pytest.mark.parametrize(
    ("texts", "floor", "shown"),
    [
        (("pab246",), Floor(preset="pab246"), "pab246"),
        (("psnr>=38",), Floor(limits=(limit("psnr", 38.0),)), "psnr>=38"),
        ((" worst-psnr >= 32.5 ",), Floor(limits=(limit("psnr", 32.5, is_worst=True),)), "worst-psnr>=32.5"),
        (("ssim>=0.9", "temporal<=2"), Floor(limits=(limit("ssim", 0.9), limit("temporal", 2.0))), "ssim>=0.9, temporal<=2"),
        (("worst-vmaf>=80", "pab357", "lpips<=0.1", "vmaf>=90"),
         Floor(preset="pab357", limits=(limit("vmaf", 80, is_worst=True), limit("lpips", 0.1), limit("vmaf", 90))),
         "pab357, worst-vmaf>=80, lpips<=0.1, vmaf>=90"),
    ],
)  # fmt: skip
def test_floors_are_read_and_shown(texts, floor, shown) -> None:
    assert Floor.parse(*texts) == floor
    assert str(floor) == shown
    assert Floor.parse(*shown.split(", ")) == floor


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (("pab999",), "a floor is a preset .*, or a limit on a measure .psnr, ssim, vmaf, temporal, lpips."),
        (("none", "psnr>=38"), "a floor is a preset"),
        (("psnr>=nan",), "a floor is a preset"),
        (("psnr>38",), "a floor is a preset"),
        (("psnr>=٣",), "a floor is a preset"),
        (("beauty>=3",), "unknown measure 'beauty' of a floor; known measures: psnr, ssim, vmaf, temporal, lpips"),
        (("vmaf<=90",), "larger figures of vmaf are closer, so that its floor reads vmaf>=90"),
        (("worst-lpips>=0.5",), "smaller figures of lpips are closer, so that its floor reads worst-lpips<=0.5"),
        (("psnr>=101",), "a floor on psnr lies between 0 and 100 .*, not at 101"),
        (("ssim>=90",), "a floor on ssim lies between 0 and 1 .*, not at 90"),
        (("vmaf>=100.5",), "between 0 and 100"),
        (("temporal<=511",), "between 0 and 510"),
        (("lpips<=-0.1",), "between 0 and inf"),
        (("psnr>=-3",), "not at -3"),
        (("psnr>=3", "psnr>=4"), "two floors of one kind: 'psnr>=3' and 'psnr>=4'"),
        (("worst-ssim>=0.5", "ssim>=0.9", "worst-ssim>=0.6"), "two floors of one kind: 'worst-ssim>=0.5'"),
        (("pab246", "pab357"), "two floors of one kind: 'pab246' and 'pab357'"),
    ],
)
def test_what_is_no_floor_is_refused(texts, message) -> None:
    with pytest.raises(BudgetError, match=message) as refused:
        Floor.parse(*texts)
    assert "\n" not in str(refused.value)


def test_values_are_checked_when_a_floor_is_made() -> None:
    with pytest.raises(BudgetError, match="'pab999' is no preset for a floor; there are pab246"):
        Floor(preset="pab999")
    for value in (-1.0, nan, inf):
        with pytest.raises(BudgetError, match="a floor on psnr lies between 0"):
            limit("psnr", value)


def test_the_floor_that_is_missed_most_counts() -> None:
    figures, of_preset = {"psnr": [40.0, 36.0]}, [39.0, 39.0]
    assert Floor.parse("psnr>=39").missing_db(figures) == pytest.approx(1.0)
    assert Floor.parse("worst-psnr>=35").missing_db(figures) == pytest.approx(-1.0)
    assert Floor.parse("psnr>=37", "worst-psnr>=38.5").missing_db(figures) == pytest.approx(2.5)
    assert Floor.parse("pab246", "psnr>=38.5").missing_db(figures, of_preset) == pytest.approx(3.0)
    assert Floor().missing_db(figures) == -inf


def test_limits_on_different_measures_are_weighed_in_db() -> None:
    """Two points of VMAF are half a dB, a hundredth of LPIPS is 0.42: of measures that fall, too, more is further."""
    figures = {"vmaf": [90.0, 86.0], "lpips": [0.08, 0.14], "temporal": [1.0, 3.0], "ssim": [0.95, 0.85]}
    assert Floor.parse("vmaf>=90").missing_db(figures) == pytest.approx(0.5)
    assert Floor.parse("lpips<=0.1").missing_db(figures) == pytest.approx(0.01 / 0.024)
    assert Floor.parse("lpips<=0.1", "vmaf>=90").missing_db(figures) == pytest.approx(0.5)
    assert Floor.parse("temporal<=2.96").missing_db(figures) == pytest.approx(-2.0)
    assert Floor.parse("worst-temporal<=2.52").missing_db(figures) == pytest.approx(1.0)
    assert Floor.parse("worst-ssim>=0.85").missing_db(figures) == pytest.approx(0.0)


def test_a_floor_names_the_measures_that_it_looks_at() -> None:
    floor = Floor.parse("pab246", "vmaf>=90", "worst-vmaf>=80", "ssim>=0.9")
    assert floor.measures == ("psnr", "vmaf", "ssim")
    assert floor.on_demand == ("vmaf",)
    assert Floor.parse("lpips<=0.1").measures == ("lpips",)
    assert Floor().measures == ()


def test_means_may_still_rise_but_the_worst_video_cannot() -> None:
    figures = {"psnr": [40.0, 36.0], "temporal": [1.0, 3.0]}
    assert Floor.parse("pab246", "psnr>=39").margins(figures, [39.0, 39.0]) == [[-1.0, 3.0], [-1.0, 3.0]]
    assert Floor.parse("temporal<=1.96").margins(figures) == [[pytest.approx(-2.0), pytest.approx(1.04 / 0.48)]]
    assert Floor.parse("worst-psnr>=36.5", "worst-temporal<=2.5").margins(figures) == []
    assert Floor.parse("worst-psnr>=36.5").is_lost(figures)
    assert not Floor.parse("worst-psnr>=36").is_lost(figures)
    assert Floor.parse("worst-temporal<=2.5").is_lost(figures)
    assert not Floor.parse("worst-temporal<=3").is_lost(figures)
    assert not Floor.parse("psnr>=90", "temporal<=0").is_lost(figures)
