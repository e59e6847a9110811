import json
from collections import Counter

import pytest

from pabtune.cli.options import TESTED_PER_CONTENT, TUNED, VALIDATED, sample_split
from pabtune.models.shapes.prompts import sample_prompts
from pabtune.quality.budget import Budget
from pabtune.quality.verdict import least_prompts
from pabtune.records.prompts import Prompt, load_prompts, save_prompts
from pabtune.records.splits import split_of, split_prompts


def test_prompts_are_balanced_and_the_same_again(pabtune, tmp_path) -> None:
    first, again, other = (tmp_path / name for name in ("a.jsonl", "b.jsonl", "c.jsonl"))
    made = pabtune("prompts", "shapes", "--count", "6", "--seed", "5", "--out", str(first), "--json").document()
    assert made["contents"] == {"fast": 2, "slow": 2, "still": 2}
    assert pabtune("prompts", "shapes", "--count", "6", "--seed", "5", "--out", str(again)).returncode == 0
    assert pabtune("prompts", "shapes", "--count", "6", "--seed", "6", "--out", str(other)).returncode == 0
    assert first.read_text() == again.read_text() != other.read_text()
    assert len(load_prompts(first)) == 6


def test_sampled_captions_are_never_those_of_a_search(pabtune, tmp_path) -> None:
    """Fault 28: of the 120 captions that no search saw one was among those of the confirmation."""
    path = tmp_path / "unseen.jsonl"
    assert pabtune("prompts", "shapes", "--count", "120", "--seed", "79", "--out", str(path)).returncode == 0
    assert {split_of(prompt.prompt) for prompt in load_prompts(path)} == {"test"}
    wanted = ("prompts", "shapes", "--count", "30", "--part", "tune", "--out", str(path))
    assert pabtune(*wanted).returncode == 0
    assert {split_of(prompt.prompt) for prompt in load_prompts(path)} == {"tune"}


def test_a_search_has_captions_of_each_class_in_each_part() -> None:
    """Faults 9 and 28: 24 of each class could not accept a variant."""
    split = sample_split(TUNED, VALIDATED, TESTED_PER_CONTENT)
    assert split == split_prompts([*split.test, *split.tune, *split.validate])
    assert {name: tuple(counts.values()) for name, counts in split.counts().items()} == {
        name: (TUNED // 3, VALIDATED // 3, TESTED_PER_CONTENT // 3) for name in ("still", "slow", "fast")
    }
    assert TESTED_PER_CONTENT // 3 > least_prompts(Budget.parse("shapes>=-1.0"))
    seeds = [{prompt.seed for prompt in part} for part in split.parts().values()]
    assert len(set.union(*seeds)) == sum(map(len, seeds))


def test_vbenchs_prompts_by_dimension_category_and_content(pabtune, tmp_path) -> None:
    path = str(tmp_path / "p.jsonl")
    asked = {
        ("--dimension", "motion_smoothness"): {"motion": 72},
        ("--dimension", "color", "--count", "9"): {"any": 9},
        ("--category", "food"): {"food": 100},
        ("--content", "motion", "--count", "30"): {"motion": 15, "still": 15},
        ("--dimension", "temporal_flickering", "--content", "motion"): {"still": 75},
        ("--category", "human", "--content", "categories", "--count", "7"): {"human": 7},
    }
    for words, contents in asked.items():
        document = pabtune("prompts", "vbench", *words, "--out", path, "--json").document()
        assert (document["contents"], document["count"]) == (contents, sum(contents.values()))
        assert Counter(prompt.content for prompt in load_prompts(tmp_path / "p.jsonl")) == contents


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--dimension colour", "VBench has no dimension 'colour'; it has subject_consistency"),
        ("--category cars", "VBench has no category 'cars'; it has animal, architecture"),
        ("--content slow", "no content 'slow'; they have categories, motion"),
        ("--dimension color --category food", "name one of --dimension and --category"),
        ("--dimension color --content categories", "prompts of a dimension have no class of --content 'categories'"),
        ("--category food --content motion", "prompts of a category have no class of --content 'motion'"),
        ("--category food --count 101", "101 prompts were asked for, but there are 100"),
        ("", "name the prompts: --dimension, --category, or --content"),
    ],
)
def test_what_vbench_does_not_have_is_answered_with_what_it_has(pabtune, tmp_path, words, message) -> None:
    path = tmp_path / "p.jsonl"
    assert message in pabtune("prompts", "vbench", *words.split(), "--out", str(path)).refusal()
    assert not path.exists()


def test_a_file_is_split_by_its_texts_alone(pabtune, tmp_path) -> None:
    path, folder = tmp_path / "p.jsonl", tmp_path / "parts"
    save_prompts(path, sample_prompts(90, 0))
    prompts = load_prompts(path)
    lines = path.read_text().splitlines()
    own_seed = {"prompt": prompts[0].prompt.upper(), "content": "still", "seed": 77}
    path.write_text("\n".join([json.dumps(own_seed), *lines]) + "\n")
    document = pabtune("prompts", "split", str(path), "--out", str(folder), "--json").document()
    assert document["duplicates"] == 1
    parts = {name: load_prompts(folder / f"{name}.jsonl", seed=5000) for name in ("tune", "validate", "test")}
    expected = [Prompt(**own_seed)]
    expected += [Prompt(prompt=each.prompt, content=each.content, seed=each.seed + 1) for each in prompts[1:]]
    for name, part in parts.items():
        assert part == [prompt for prompt in expected if split_of(prompt.prompt) == name]
        assert {content: counts[name] for content, counts in document["contents"].items()} == Counter(
            prompt.content for prompt in part
        )


def test_a_file_that_cannot_be_split_leaves_nothing(pabtune, tmp_path) -> None:
    path = tmp_path / "p.txt"
    save_prompts(
        path, [*sample_prompts(90, 0), Prompt(prompt="a cat", content="odd"), Prompt(prompt="a dog", content="odd")]
    )
    line = pabtune("prompts", "split", str(path), "--out", str(tmp_path / "parts")).refusal()
    assert "of the 2 distinct prompts of class 'odd' none falls into tune" in line
    assert "add prompts of this class, to 30 or more" in line
    assert not (tmp_path / "parts").exists()
    assert "cannot write here" in pabtune("prompts", "split", str(write(tmp_path)), "--out", str(path)).refusal()


def write(folder):
    path = folder / "many.txt"
    path.write_text("\n".join(f"prompt {index}" for index in range(60)))
    return path
