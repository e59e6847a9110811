import numpy as np
import pytest

from pabtune.models.shapes.captions import VOCABULARY, describe, loosen, parse, split_words
from pabtune.models.shapes.world import Scene, all_scenes
from pabtune.records.errors import PromptError


def test_every_caption_says_what_the_scene_shows() -> None:
    rng = np.random.default_rng(0)
    vocabulary = set(VOCABULARY)
    for scene in all_scenes():
        for each in (scene, loosen(scene, rng)):
            caption = describe(each, rng)
            assert parse(caption) == each, caption
            assert set(split_words(caption)) <= vocabulary
            assert len(split_words(caption)) <= 24


def test_wording_varies() -> None:
    scene = Scene(shape="circle", color="red", size="small", motion="left", speed="slow", background="gray")
    rng = np.random.default_rng(0)
    assert len({describe(scene, rng) for _ in range(100)}) > 30


def test_open_attributes_stay_open() -> None:
    assert parse("A red square!") == Scene(shape="square", color="red")
    assert parse("A red square!").content == "open"


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("a purple square", "unknown word 'purple' .* color: red, yellow, green, cyan, blue, pink"),
        ("a red and blue square", "two values of color: 'red' and 'blue'"),
        ("...", "has no words"),
        ("", "has no words"),
        ("a red circle spins", "take another shape"),
    ],
)
def test_what_cannot_be_understood_is_refused(prompt, message) -> None:
    with pytest.raises(PromptError, match=message):
        parse(prompt)
