import random
from collections import Counter

import pytest

from pabtune.records.errors import PromptError, VbenchError
from pabtune.records.files import digest
from pabtune.records.prompts import load_prompts
from pabtune.records.splits import PARTS, split_of, split_prompts
from pabtune.vbench import prompt_lists
from pabtune.vbench.dimensions import DIMENSIONS
from pabtune.vbench.prompt_lists import (
    CATEGORIES,
    MOTION,
    SUITES,
    draw_prompts,
    prompts_of_axis,
    prompts_of_category,
    prompts_of_dimension,
    suite_of,
)

SIZES = {
    "subject_consistency": 72, "background_consistency": 86, "temporal_flickering": 75, "motion_smoothness": 72,
    "dynamic_degree": 72, "aesthetic_quality": 93, "imaging_quality": 93, "object_class": 79, "multiple_objects": 82,
    "human_action": 100, "color": 85, "spatial_relationship": 84, "scene": 86, "appearance_style": 90,
    "temporal_style": 100, "overall_consistency": 93,
}  # fmt: skip
"""Prompts of each dimension in VBench_full_info.json of vbench 0.1.5."""


def texts(prompts) -> list[str]:
    return [prompt.prompt for prompt in prompts]


def test_dimensions_have_the_suites_that_vbench_scores_them_on() -> None:
    assert {name: len(prompts_of_dimension(name)) for name in DIMENSIONS} == SIZES
    suites = [text for suite in SUITES for text in texts(prompts_of_dimension(suite))]
    assert (len(SUITES), len(suites), len(set(suites))) == (11, 946, 944)


def test_categories_are_eight_of_a_hundred() -> None:
    assert [len(set(texts(prompts_of_category(name)))) for name in CATEGORIES] == [100] * 8
    twice = Counter(text for name in CATEGORIES for text in texts(prompts_of_category(name)))
    assert [text for text, count in twice.items() if count > 1] == [
        "video of a indoor green plant",
        "a highway built across an agricultural area in the countryside",
    ]
    assert {prompt.content for prompt in prompts_of_category("food")} == {"food"}


def test_nobody_changes_a_prompt() -> None:
    """Checksums of the lists as they were published (`pabtune/vbench/lists/NOTICE`)."""
    assert digest([texts(prompts_of_dimension(suite)) for suite in SUITES])[:23] == "sha256:95924ca373d1b0d9"
    assert digest([texts(prompts_of_category(name)) for name in CATEGORIES])[:23] == "sha256:dd7758e2fac6d012"


def test_still_and_motion_are_two_suites() -> None:
    assert MOTION == {"temporal_flickering": "still", "subject_consistency": "motion"}
    contents = {name: {prompt.content for prompt in prompts_of_dimension(name)} for name in DIMENSIONS}
    assert {name for name, classes in contents.items() if classes == {"still"}} == {"temporal_flickering"}
    assert {name for name, classes in contents.items() if classes == {"motion"}} == {
        "subject_consistency", "motion_smoothness", "dynamic_degree",
    }  # fmt: skip
    assert all(classes == {"any"} for name, classes in contents.items() if suite_of(name) not in MOTION)


def test_axes_have_each_prompt_once() -> None:
    counts = {axis: Counter(prompt.content for prompt in prompts_of_axis(axis)) for axis in prompt_lists.AXES}
    assert counts["motion"] == {"still": 75, "motion": 72}
    assert counts["categories"] == {**dict.fromkeys(CATEGORIES, 100), "plant": 99, "vehicles": 99}


def test_draws_are_balanced_nested_and_differ_by_seed() -> None:
    everything = prompts_of_axis("categories")
    drawn = draw_prompts(everything, 42, seed=3)
    assert set(Counter(prompt.content for prompt in drawn).values()) == {5, 6}
    assert len(set(texts(drawn))) == 42
    assert drawn == draw_prompts(everything[::-1], 100, seed=3)[:42]
    assert set(drawn) != set(draw_prompts(everything, 42, seed=4))
    assert sorted(texts(draw_prompts(everything, 798, seed=0))) == sorted(texts(everything))
    with pytest.raises(PromptError, match="799 prompts were asked for, but there are 798"):
        draw_prompts(everything, 799, seed=0)


def test_unknown_names_are_answered_with_the_known_ones() -> None:
    with pytest.raises(VbenchError, match="no dimension 'colour'; it has subject_consistency, .*overall_consistency"):
        prompts_of_dimension("colour")
    with pytest.raises(PromptError, match="no category 'cars'; it has animal, .*vehicles"):
        prompts_of_category("cars")
    with pytest.raises(PromptError, match="no content 'slow'; they have categories, motion"):
        prompts_of_axis("slow")


@pytest.mark.parametrize("suite", SUITES)
def test_lists_are_prompt_files(suite) -> None:
    """Users may pass one to `--prompts` as it is."""
    path = prompt_lists.files("pabtune.vbench") / "lists" / "dimensions" / f"{suite}.txt"
    assert texts(load_prompts(path)) == texts(prompts_of_dimension(suite))


@pytest.mark.parametrize("axis", prompt_lists.AXES)
def test_the_split_has_its_shares_in_each_class(axis) -> None:
    """Within three standard deviations of binomial counts."""
    for counts in split_prompts(prompts_of_axis(axis)).counts().values():
        total = sum(counts.values())
        for part, share in zip(PARTS, (0.25, 0.15, 0.6), strict=True):
            assert abs(counts[part] - total * share) <= 3 * (total * share * (1 - share)) ** 0.5


def test_no_draw_and_no_other_list_moves_a_prompt() -> None:
    lists = [prompts_of_dimension(suite) for suite in SUITES] + [prompts_of_axis("categories")]
    parts = {prompt.prompt: split_of(prompt.prompt) for prompts in lists for prompt in prompts}
    rng = random.Random(0)
    for seed in range(10):
        prompts = [prompt for each in rng.sample(lists, 4) for prompt in draw_prompts(each, 60, seed)]
        for part, own in split_prompts(prompts).parts().items():
            assert {parts[prompt.prompt] for prompt in own} == {part}
