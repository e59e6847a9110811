"""A classifier of prompts: what it learns from few captions, and what it leaves open."""

from dataclasses import replace

import numpy as np

from pabtune.models.shapes.prompts import sample_prompts
from pabtune.records.prompts import Prompt
from pabtune.records.splits import Split
from pabtune.tuning.classifying import Accuracy, fit_classifier, fit_on_split, measure_classifier

CONTENTS = ("still", "slow", "fast")
CAPTIONS = Split(
    **{part: tuple(sample_prompts(count, 2, part)) for part, count in {"tune": 24, "validate": 24, "test": 300}.items()}
)


def test_classes_of_unseen_captions_are_told() -> None:
    classifier, accuracy = fit_on_split(CAPTIONS, CONTENTS)
    assert accuracy.prompts == 300
    assert accuracy.wrong <= 3
    assert accuracy.right >= 285
    strongest = {
        content: max(words, key=words.get) for content, words in classifier.words.items()
    }  # what a person would look for
    assert strongest["still"] in ("still", "motionless")
    assert strongest["slow"] in ("slowly", "gently")
    assert strongest["fast"] in ("quickly", "fast")


def test_the_prompts_of_the_verdict_decide_nothing() -> None:
    turned = {"still": "slow", "slow": "fast", "fast": "still"}
    wrong = tuple(replace(each, content=turned[each.content]) for each in CAPTIONS.test)
    right, _ = fit_on_split(CAPTIONS, CONTENTS)
    same, accuracy = fit_on_split(replace(CAPTIONS, test=wrong), CONTENTS)
    assert same == right
    assert accuracy.right <= 3


def test_classes_that_words_do_not_tell_are_left_open() -> None:
    rng = np.random.default_rng(0)
    mixed = [replace(each, content=str(rng.choice(CONTENTS))) for each in (*CAPTIONS.tune, *CAPTIONS.validate)]
    accuracy = measure_classifier(fit_classifier(mixed, CONTENTS), CAPTIONS.test)
    assert accuracy.unknown > 150


def test_only_the_named_classes_that_have_prompts_are_told_apart() -> None:
    prompts = (*CAPTIONS.tune, *CAPTIONS.validate)
    two = fit_classifier(prompts, ("slow", "fast", "wild"))
    assert set(two.bias) == {"slow", "fast"}
    assert measure_classifier(two, CAPTIONS.test).prompts == 200
    assert fit_classifier(prompts, ("slow",)) is None
    assert fit_classifier(prompts, ()) is None


def test_one_prompt_of_a_class_is_enough_to_fit() -> None:
    prompts = [Prompt(prompt="a dog runs", content="fast"), Prompt(prompt="a dog rests", content="still")]
    classifier = fit_classifier(prompts, CONTENTS)
    assert classifier.content_of("a cat runs") == "fast"
    assert classifier.content_of("a dog") is None


def test_an_accuracy_counts_every_prompt_once() -> None:
    accuracy = Accuracy(right=5, wrong=1, unknown=2)
    assert accuracy.to_document() == {"prompts": 8, "right": 5, "wrong": 1, "unknown": 2}
