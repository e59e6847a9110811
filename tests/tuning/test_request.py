import pytest

from pabtune.records.errors import StudyError
from pabtune.records.prompts import Prompt
from pabtune.tuning.request import split_prompts


def test_prompts_are_split_per_class_without_overlap() -> None:
    prompts = [Prompt(prompt=str(i), content="ab"[i % 2]) for i in range(24)]
    searched, unseen = split_prompts([*prompts, prompts[0]])
    assert len(searched) == 8
    assert len(unseen) == 16
    assert not {p.prompt for p in searched} & {p.prompt for p in unseen}
    assert {p.content for p in searched} == {"a", "b"}


def test_too_few_prompts_are_refused() -> None:
    with pytest.raises(StudyError, match="at least 12 distinct prompts"):
        split_prompts([Prompt(prompt="same")] * 40)
