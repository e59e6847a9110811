import math

import pytest

from pabtune.records.classifiers import PromptClassifier, words_of
from pabtune.records.errors import PolicyError

SPEEDS = PromptClassifier(
    bias={"slow": 0.25, "fast": 0.0},
    words={"slow": {"slowly": 2.0, "a": 0.1}, "fast": {"quickly": 2.0, "cafés": 3.0}},
    margin=1.0,
)


def test_scores_are_sums_over_the_words_that_stand_in_a_prompt() -> None:
    assert SPEEDS.scores("A car turns slowly, slowly") == {"slow": pytest.approx(2.35), "fast": 0.0}
    assert SPEEDS.scores("") == {"slow": 0.25, "fast": 0.0}


@pytest.mark.parametrize(
    ("prompt", "content"),
    [
        ("a car drives SLOWLY", "slow"),
        ("a car drives quickly.", "fast"),
        ("Cafe\u0301s", "fast"),  # an accent of its own is the same letter
        ("a slowly turning car drives quickly", None),  # 2.35 against 2: no clear lead
        ("a car", None),  # 0.35 against 0
        ("un coche", None),  # no known word, though a bias leads
        ("", None),
    ],
)
def test_a_class_must_lead_by_the_margin(prompt: str, content: str | None) -> None:
    assert SPEEDS.content_of(prompt) == content


def test_a_bias_alone_decides_nothing() -> None:
    certain = PromptClassifier(bias={"slow": 9.0, "fast": 0.0}, words={"slow": {"slowly": 1.0}, "fast": {}}, margin=1.0)
    assert certain.content_of("un coche") is None
    assert certain.content_of("slowly") == "slow"


def test_prompts_of_one_call_must_agree() -> None:
    slow, fast = "drives slowly", "drives quickly"
    assert SPEEDS.content_of_all([slow, slow]) == "slow"
    assert SPEEDS.content_of_all([slow, fast]) is None
    assert SPEEDS.content_of_all([slow, "drives"]) is None
    assert SPEEDS.content_of_all([]) is None


def test_words_are_runs_of_letters_and_single_characters_of_chinese() -> None:
    assert words_of("It's 3 red-hot cars_") == {"it", "s", "red", "hot", "cars"}
    assert words_of("汽车 slowly") == {"汽", "车", "slowly"}


def test_a_classifier_survives_its_document() -> None:
    assert PromptClassifier.from_document(SPEEDS.to_document()) == SPEEDS


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bias": {"slow": 0.0}, "words": {"slow": {}}}, "two or more content classes"),
        ({"words": {"slow": {}}}, "has biases for slow, fast and words for slow"),
        ({"margin": -1.0}, "margin of a classifier must be 0 or more nats, but is -1.0"),
        ({"margin": math.nan}, "margin of a classifier"),
    ],
)
def test_wrong_values_are_refused(changes, message) -> None:
    values = {"bias": SPEEDS.bias, "words": SPEEDS.words, "margin": SPEEDS.margin}
    with pytest.raises(PolicyError, match=message):
        PromptClassifier(**values | changes)
