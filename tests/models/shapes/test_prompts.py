from collections import Counter

import pytest

from pabtune.models.shapes import prompts
from pabtune.models.shapes.captions import parse
from pabtune.models.shapes.prompts import sample_prompts
from pabtune.models.shapes.world import Scene, scenes
from pabtune.records.errors import PromptError


def test_captions_are_distinct_balanced_and_reproducible() -> None:
    found = sample_prompts(60, seed=1)
    assert found == sample_prompts(60, seed=1) != sample_prompts(60, seed=2)
    assert len({prompt.prompt for prompt in found}) == 60
    assert set(Counter(prompt.content for prompt in found).values()) == {20}


def test_captions_are_of_scenes_that_training_never_saw() -> None:
    trained = set(scenes("train"))
    for prompt in sample_prompts(300, seed=3):
        scene = parse(prompt.prompt)
        assert isinstance(scene, Scene)
        assert scene not in trained
        assert scene.content == prompt.content


def test_more_captions_than_there_are_are_refused(monkeypatch) -> None:
    """It looked for the next one without end: there are some 5,600 of still scenes, and 800 of them to validate with."""
    monkeypatch.setattr(prompts, "scenes", lambda part: {each.content: each for each in scenes(part)}.values())
    monkeypatch.setattr(prompts, "PATIENCE", 500)
    with pytest.raises(
        PromptError, match=r"no 3000 distinct captions of the part 'validate': no (still|slow|fast) one"
    ):
        sample_prompts(3000, 0, "validate")
