from pabtune.cli.options import TESTED_PER_CONTENT, TUNED, VALIDATED, sample_split
from pabtune.quality.budget import Budget
from pabtune.quality.verdict import least_prompts
from pabtune.records.prompts import load_prompts
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
