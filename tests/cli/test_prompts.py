from collections import Counter

from pabtune.cli.options import SEARCHED, UNSEEN_PER_CONTENT, captions_of_searches, sample_two
from pabtune.models.shapes.prompts import sample_prompts
from pabtune.quality.budget import LEAST_ACCEPTED_PROMPTS
from pabtune.records.prompts import load_prompts


def test_prompts_are_balanced_and_the_same_again(pabtune, tmp_path) -> None:
    first, again, other = (tmp_path / name for name in ("a.jsonl", "b.jsonl", "c.jsonl"))
    made = pabtune("prompts", "shapes", "--count", "6", "--seed", "5", "--out", str(first), "--json").document()
    assert made["contents"] == {"fast": 2, "slow": 2, "still": 2}
    assert pabtune("prompts", "shapes", "--count", "6", "--seed", "5", "--out", str(again)).returncode == 0
    assert pabtune("prompts", "shapes", "--count", "6", "--seed", "6", "--out", str(other)).returncode == 0
    assert first.read_text() == again.read_text() != other.read_text()
    assert len(load_prompts(first)) == 6


def test_sampled_captions_are_never_those_of_a_search(pabtune, tmp_path) -> None:
    """Fault 28: of the 120 captions that no search saw one was among those of the confirmation; so it is with seed 79."""
    own, path = captions_of_searches(), tmp_path / "unseen.jsonl"
    assert {prompt.prompt for prompt in sample_prompts(120, 79)} & own
    assert pabtune("prompts", "shapes", "--count", "120", "--seed", "79", "--out", str(path)).returncode == 0
    captions = {prompt.prompt for prompt in load_prompts(path)}
    assert len(captions) == 120
    assert not captions & own


def test_a_search_confirms_on_other_captions_enough_of_each_class() -> None:
    """Faults 9 and 28: 24 of each class could not accept a variant; the sets are disjoint for every count."""
    for counts in ((SEARCHED, UNSEEN_PER_CONTENT), (600, 900)):
        searched, unseen = sample_two(*counts)
        assert not {prompt.prompt for prompt in searched} & {prompt.prompt for prompt in unseen}
        assert (len(searched), len(unseen)) == counts
    contents = Counter(prompt.content for prompt in sample_two(SEARCHED, UNSEEN_PER_CONTENT)[1])
    assert set(contents.values()) == {LEAST_ACCEPTED_PROMPTS}
