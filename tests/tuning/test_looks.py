"""Looks at unseen prompts, counted in real storages."""

import pytest

from pabtune.records.prompts import Prompt, digest_prompts
from pabtune.tuning.space import Space
from pabtune.tuning.study import SharedStudy
from tests.records.test_profiles import make_profile

PROMPTS = [Prompt(prompt=f"prompt {index}", seed=index, content="any") for index in range(6)]


@pytest.mark.parametrize("storage", ["{}/study.journal", "sqlite:///{}/study.db"])
def test_looks_at_unseen_prompts_are_counted_over_the_studies_of_a_storage(tmp_path, storage) -> None:
    """Fault 9: whoever changes the budget or a seed starts a new study, and looked at the same prompts for the first time."""
    storage, space = storage.format(tmp_path), Space(make_profile(12))
    some, more, others = PROMPTS[:2], PROMPTS[1:4], PROMPTS[4:6]
    first, second = (SharedStudy(storage, name, space, "p") for name in ("first", "second"))
    assert [first.count_look(some), first.count_look(some), second.count_look(some)] == [1, 2, 3]
    assert SharedStudy(storage, "third", space, "p").count_look(others) == 1
    assert SharedStudy(storage, "first", space, "p").count_look(some) == 4
    assert second.count_look(more) == 5  # one prompt more or less makes no new set of prompts
    assert first.count_look(others) == 2
    assert second.count_look(PROMPTS[2:4]) == 2
    assert [second.count_look(some, "slow"), first.count_look(some[:1], "slow"), first.count_look(some, "fast")] == [
        1,
        2,
        1,
    ]


def test_looks_that_an_earlier_version_noted_count(tmp_path) -> None:
    storage, space = str(tmp_path / "study.journal"), Space(make_profile(12))
    before = SharedStudy(storage, "before", space, "p")
    before.note("looks", 3)
    before.note("unseen", digest_prompts(PROMPTS[:2]))
    assert SharedStudy(storage, "now", space, "p").count_look(PROMPTS[:2]) == 4
    assert SharedStudy(storage, "now", space, "p").count_look(PROMPTS[2:4]) == 1
