import pytest

from pabtune.quality.budget import Budget, drop_statistics
from pabtune.records.errors import BudgetError

ONE = Budget(score="shapes", largest_drop=1.0)


def test_budgets_are_read() -> None:
    assert Budget.parse("shapes>=-1.0") == ONE
    assert Budget.parse(" shapes >= -0.5 ") == Budget(score="shapes", largest_drop=0.5)
    assert Budget.parse("shapes>=0") == Budget(score="shapes", largest_drop=0.0)
    assert str(ONE) == "shapes>=-1"
    assert Budget.parse("shapes>=-1.0", 20.0).largest_loss == 20.0
    assert Budget.parse("vbench>=-1.0", 150.0).largest_loss == 150.0
    for score in ("vbench", "vbench-quality", "vbench:temporal_flickering"):
        budget = Budget.parse(f"{score}>=-0.7")
        assert (budget, str(budget)) == (Budget(score=score, largest_drop=0.7), f"{score}>=-0.7")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("beauty>=-1", "known scores: shapes, vbench, vbench-quality, vbench:DIMENSION; or your own: module:function"),
        (
            "vbench:beauty>=-1",
            "the score 'vbench:beauty': VBench has no dimension 'beauty'; it has subject_consistency",
        ),
        ("vbench:>=-1", "VBench has no dimension ''"),
        ("vbench-semantic>=-1", "unknown score 'vbench-semantic'"),
        ("shapes<=1", "a budget reads SCORE>=-DROP"),
        ("shapes>=1", "must allow a drop"),
        ("", "a budget reads"),
    ],
)
def test_wrong_budgets_are_refused(text, message) -> None:
    with pytest.raises(BudgetError, match=message):
        Budget.parse(text)


@pytest.mark.parametrize("largest", [-5.0, 0.0, 1.0, 101.0])
def test_no_video_may_lose_less_than_the_mean_or_more_than_there_is(largest) -> None:
    with pytest.raises(BudgetError, match="lies between the budget and 100 points, not at"):
        Budget.parse("shapes>=-1.0", largest)


@pytest.mark.parametrize("sign", [1, -1])
def test_the_bounds_lie_around_the_mean_as_corrected_for_skew(sign) -> None:
    """Fault 27: by Johnson's formula, mean + m3 / 6 s² n: a tenth of the drops is 10, so that m3 = 72 and s² = 9."""
    found = drop_statistics([sign * drop for drop in ([0.0] * 9 + [10.0]) * 10])
    half = 1.6604 * (9 / 99) ** 0.5  # Student's t of 99 degrees of freedom, one-sided 95 %
    assert found.mean == pytest.approx(sign)
    assert (found.upper + found.lower) / 2 - found.mean == pytest.approx(sign * 72 / (6 * 9 * 100), rel=0.02)
    assert (found.upper - found.lower) / 2 == pytest.approx(half, rel=1e-3)


def test_the_largest_loss_of_a_video_is_the_scale_of_its_score_unless_it_is_said() -> None:
    whole, said = Budget.parse("vbench>=-1.0"), Budget.parse("vbench>=-1.0", 30.0)
    assert [each.on_scale(400.0).largest_loss for each in (whole, said)] == [400.0, 30.0]
    assert [each.on_scale(400.0).on_scale(300.0).largest_loss for each in (whole, said)] == [300.0, 30.0]
    assert str(whole.on_scale(400.0)) == str(whole)


def test_a_largest_loss_of_a_hundred_is_said_where_a_video_can_lose_more() -> None:
    """It was taken for the default, and became 400."""
    assert Budget.parse("vbench>=-1.0", 100.0).on_scale(400.0).largest_loss == 100.0
    assert Budget.parse("shapes>=-1.0", 100.0).largest_loss == 100.0
