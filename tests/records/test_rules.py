import pytest

from pabtune.records.errors import PolicyError
from pabtune.records.rules import Rule, check_rule


@pytest.mark.parametrize(
    "rule",
    [
        Rule(kind="transformer", compute=(0, 1, 4), payload="linear", damping=0.5),
        Rule(kind="transformer", count=5, first=2, last=1, payload="quadratic", transformer="transformer_2"),
        Rule(kind="mlp", range=2, first=2, last=0, layers=(1, 3)),
        Rule(kind="cross", range=3, noise_window=(0.2, 0.9), anchor="start"),
        Rule(kind="block", compute=(0, 1), payload="scaled", factors=((), (), (0.5, -0.25))),
    ],
)
def test_a_rule_survives_its_document(rule: Rule) -> None:
    check_rule("rule", rule)
    assert Rule.from_document(rule.to_document()) == rule


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (Rule(kind="mlp", compute=(0,), payload="cubic"), "'cubic' is not one of hold, linear, quadratic, scaled"),
        (Rule(kind="mlp", compute=(0,), payload="linear", damping=3.0), "`damping` must be a number from 0 to 2"),
        (Rule(kind="mlp", compute=(0,), damping=0.5), "but the payload is hold"),
        (Rule(kind="mlp", compute=(0,), payload="scaled"), "needs `factors`"),
        (Rule(kind="mlp", compute=(0,), factors=((0.5,),)), "no other has any"),
        (Rule(kind="mlp", compute=(0,), payload="scaled", factors=((1.0,) * 4,)), "up to 3 finite numbers"),
        (Rule(kind="mlp", compute=(0,), payload="scaled", factors=((float("nan"),),)), "finite numbers"),
        (Rule(kind="mlp", count=2, first=2, last=1), "at least `first` \\+ `last`, but is 2"),
        (Rule(kind="mlp", count=2, first=2), "stand together"),
        (Rule(kind="mlp", count=0, first=1, last=0), "`count` must be a whole number from 1"),
        (Rule(kind="mlp", count=4, first=1, last=0, range=2), "neither a range nor a window"),
        (Rule(kind="mlp", compute=(0, 2), range=2), "stands alone"),
        (Rule(kind="mlp", compute=(1, 2)), "must start with step 0 and rise"),
        (Rule(kind="mlp", range=2), "needs either"),
        (Rule(kind="mlp", range=2, window=(5, 5)), "start < stop"),
        (Rule(kind="transformer", compute=(0,), layers=(1,)), "a transformer rule has no layers"),
    ],
)
def test_a_wrong_rule_is_refused_in_one_line(rule: Rule, message: str) -> None:
    with pytest.raises(PolicyError, match=message) as caught:
        check_rule("rules[0]", rule)
    assert str(caught.value).startswith("rules[0]: ")
    assert "\n" not in str(caught.value)
