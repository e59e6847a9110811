import math
from dataclasses import replace

import pytest

from pabtune.records.errors import PolicyError
from pabtune.records.first_steps import FirstSteps, first_broadcast
from pabtune.records.policies import MadeFor, Policy
from pabtune.records.rules import Rule

SPEEDS = FirstSteps(
    steps=2,
    frame_axis=2,
    bias={"slow": 0.5, "fast": 0.0},
    weights={"slow": {"size@1": 1.0}, "fast": {"step@2": 2.0}},
    margin=1.0,
)


@pytest.mark.parametrize(
    ("values", "content"),
    [((2.0, 0.0), "slow"), ((0.0, 1.0), "fast"), ((0.0, 0.5), None), ((math.nan, 9.0), None), ((math.inf, 0.0), None)],
)
def test_a_class_must_lead_by_the_margin(values, content) -> None:
    assert SPEEDS.numbers == ("size@1", "step@2")
    assert SPEEDS.content_of(values) == content


def test_videos_of_one_call_must_agree() -> None:
    slow, fast, unclear = (2.0, 0.0), (0.0, 1.0), (0.0, 0.5)
    assert SPEEDS.content_of_all([slow, slow]) == "slow"
    assert [SPEEDS.content_of_all(each) for each in ([slow, fast], [slow, unclear], [])] == [None] * 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "at least 1 step must compute"),
        ({"steps": 1}, "known after 2 steps, but the class is told after 1"),
        ({"frame_axis": None}, "which axis holds them"),
        ({"bias": {"slow": 0.0}}, "two or more content classes"),
        ({"margin": math.nan}, "the margin of first_steps"),
        ({"weights": {"slow": {"colour@1": 1.0}, "fast": {}}}, "'colour@1' is no number of first steps"),
        ({"weights": {"slow": {"size": 1.0}, "fast": {}}}, "'size' is no number"),
    ],
)
def test_wrong_values_are_refused(changes, message) -> None:
    with pytest.raises(PolicyError, match=message):
        replace(SPEEDS, **changes)


def test_it_survives_its_file_and_stands_alone(tmp_path) -> None:
    policy = Policy(name="p", variants={"slow": (Rule(kind="mlp", range=2, window=(2, 9)),)}, first_steps=SPEEDS)
    policy.save(tmp_path / "p.json")
    assert Policy.load(tmp_path / "p.json") == policy
    assert policy.choices("auto") == (None, "slow")
    document = policy.to_document()
    document["first_steps"]["classes"]["slow"]["words"] = {}
    with pytest.raises(PolicyError, match="'words' was unexpected"):
        Policy.from_document(document)
    words = {"margin": 1, "classes": {name: {"bias": 0, "words": {}} for name in ("slow", "fast")}}
    with pytest.raises(PolicyError, match="leave one out"):
        Policy.from_document({**policy.to_document(), "classifier": words})


@pytest.mark.parametrize(
    ("rule", "first"),
    [
        (Rule(kind="mlp", range=2, window=(4, 9)), 4),
        (Rule(kind="mlp", range=2, window=(0, 9)), 1),
        (Rule(kind="mlp", range=2, window=(4, 9), anchor="start"), 5),
        (Rule(kind="mlp", range=1, window=(0, 9)), None),
        (Rule(kind="mlp", range=5, window=(5, 6), anchor="start"), None),
        (Rule(kind="mlp", range=3, first=5, last=1), 5),
        (Rule(kind="mlp", compute=(0, 1, 2, 5)), 3),
        (Rule(kind="mlp", count=5, first=3, last=1), 3),
        (Rule(kind="mlp", count=8, first=2, last=1), 3),  # 0 1 2 4 5 6 8 9: refused as if it broadcast from step 2 on
        (Rule(kind="mlp", count=10, first=3, last=1), None),
        (Rule(kind="mlp", range=2, noise_window=(0.1, 0.9)), None),
    ],
)
def test_the_first_broadcast_of_a_rule(rule, first) -> None:
    assert first_broadcast(rule, 10) == first


def test_a_policy_that_broadcasts_before_the_class_is_told_is_refused() -> None:
    early = (Rule(kind="mlp", range=2, window=(1, 9)),)
    made_for = MadeFor(steps=10)
    with pytest.raises(
        PolicyError, match="the general rule for mlp broadcasts from step 1 on, but the class is told after"
    ):
        Policy(name="p", rules=early, first_steps=SPEEDS, made_for=made_for)
    with pytest.raises(PolicyError, match="variant slow: the rule for mlp broadcasts from step 1 on"):
        Policy(name="p", variants={"slow": early}, first_steps=SPEEDS, made_for=made_for)
