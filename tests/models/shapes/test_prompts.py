from collections import Counter

from pabtune.models.shapes.captions import parse
from pabtune.models.shapes.prompts import sample_prompts
from pabtune.models.shapes.world import Scene, scenes


def test_captions_are_distinct_balanced_and_reproducible() -> None:
    prompts = sample_prompts(60, seed=1)
    assert prompts == sample_prompts(60, seed=1) != sample_prompts(60, seed=2)
    assert len({prompt.prompt for prompt in prompts}) == 60
    assert set(Counter(prompt.content for prompt in prompts).values()) == {20}


def test_captions_are_of_scenes_that_training_never_saw() -> None:
    trained = set(scenes("train"))
    for prompt in sample_prompts(300, seed=3):
        scene = parse(prompt.prompt)
        assert isinstance(scene, Scene)
        assert scene not in trained
        assert scene.content == prompt.content
