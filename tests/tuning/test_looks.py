"""Looks at unseen prompts, counted in real storages."""

from dataclasses import replace

import pytest

from pabtune.records.prompts import Prompt, digest_prompts
from pabtune.tuning.looks import count_look
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
    assert [first.count_look(some, "a"), first.count_look(some, "b"), second.count_look(some, "c")] == [1, 2, 3]
    assert SharedStudy(storage, "third", space, "p").count_look(others, "a") == 1
    assert SharedStudy(storage, "first", space, "p").count_look(some, "d") == 4
    assert second.count_look(more, "a") == 5  # one prompt more or less makes no new set of prompts
    assert first.count_look(others, "b") == 2
    assert second.count_look(PROMPTS[2:4], "a") == 2
    slow, less, fast = second.count_look(some, "a", "slow"), first.count_look(some[:1], "a", "slow"), (
        first.count_look(some, "a", "fast")
    )  # fmt: skip
    assert [slow, less, fast] == [1, 2, 1]


def test_the_same_claim_on_the_same_prompts_is_the_same_look(tmp_path) -> None:
    """A search that was stopped in its verdict, or run twice, took an eighth of the error, then less, and could not accept."""
    storage, space = str(tmp_path / "study.journal"), Space(make_profile(12))
    first, second = (SharedStudy(storage, name, space, "p") for name in ("first", "second"))
    assert [first.count_look(PROMPTS[:3], "a"), first.count_look(PROMPTS[:3], "b")] == [1, 2]
    assert [each.count_look(PROMPTS[:3], claim) for each in (first, second) for claim in "ab"] == [1, 2, 1, 2]
    assert second.count_look(PROMPTS[:3], "a", "slow") == 1
    assert second.count_look(PROMPTS[2::-1], "a") == 3  # another order is another bet
    assert second.count_look(PROMPTS[:3], "c") == 4


def test_another_spelling_is_the_same_prompt(tmp_path) -> None:
    """Two policies each had the error of a first look."""
    study = SharedStudy(str(tmp_path / "study.journal"), "first", Space(make_profile(12)), "p")
    other = [replace(each, prompt=f"  {each.prompt.upper()}") for each in PROMPTS[:2]]
    assert [study.count_look(PROMPTS[:2], "a"), study.count_look(other, "b")] == [1, 2]


def test_looks_that_an_earlier_version_noted_count(tmp_path) -> None:
    storage, space = str(tmp_path / "study.journal"), Space(make_profile(12))
    before = SharedStudy(storage, "before", space, "p")
    before.note("looks", 3)
    before.note("unseen", digest_prompts(PROMPTS[:2]))
    assert SharedStudy(storage, "now", space, "p").count_look(PROMPTS[:2], "a") == 4
    assert SharedStudy(storage, "now", space, "p").count_look(PROMPTS[2:4], "a") == 1


def test_a_look_that_was_killed_before_its_number_was_noted_is_no_earlier_one(tmp_path, monkeypatch) -> None:
    """It counted as the first, with four fifths of the error."""
    space = Space(make_profile(12))
    study = SharedStudy(str(tmp_path / "study.journal"), "s", space, "p")
    assert [study.count_look(PROMPTS[:3], claim) for claim in "abc"] == [1, 2, 3]
    noted = []

    def once(key, value):
        if noted:
            raise KeyboardInterrupt
        noted.append(key)
        study.note(key, value)

    with pytest.raises(KeyboardInterrupt):
        count_look(once, study._notes_of_all, PROMPTS[:3], "d")
    assert study.count_look(PROMPTS[:3], "d") == 5  # the one that was not finished counts too
