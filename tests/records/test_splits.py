"""The split of prompts: a law that must hold across files, studies and months."""

import pytest

from pabtune.models.shapes.prompts import sample_prompts
from pabtune.records.errors import PromptError
from pabtune.records.prompts import Prompt
from pabtune.records.splits import PARTS, in_chance_order, split_of, split_prompts

GOLDEN = {
    "a red circle moves left": "test",
    "a large blue square stands still": "test",
    "a cat": "validate",
    "a dog": "test",
    "a bird flying over a calm lake": "test",
    "In a still frame, a stop sign": "test",
    "una señora camina por la playa": "tune",
    "a panda drinking coffee in a cafe in Paris": "test",
}
"""Parts of some prompts. They must never change: what was tuned on would be tested with."""


def test_the_part_of_a_prompt_never_changes() -> None:
    assert {text: split_of(text) for text in GOLDEN} == GOLDEN


def test_case_spacing_and_forms_of_letters_do_not_matter() -> None:
    assert len({split_of(text) for text in ("A  Red\tcircle ", "a red circle", "A RED CIRCLE")}) == 1
    for name in ("se\u00f1ora", "caf\u00e9", "\u00e5", "\u00fc"):
        decomposed = {
            "se\u00f1ora": "sen\u0303ora",
            "caf\u00e9": "cafe\u0301",
            "\u00e5": "a\u030a",
            "\u00fc": "u\u0308",
        }[name]
        assert split_of(name) == split_of(decomposed)


def test_the_parts_have_their_shares_in_each_class() -> None:
    """Within four standard deviations of binomial counts."""
    counts = split_prompts(sample_prompts(3000, 5)).counts()
    assert set(counts) == {"still", "slow", "fast"}
    for own in counts.values():
        for part, share in zip(PARTS, (0.25, 0.15, 0.6), strict=True):
            assert abs(own[part] - 1000 * share) <= 4 * (1000 * share * (1 - share)) ** 0.5


def test_other_prompts_do_not_move_a_prompt() -> None:
    prompts = sample_prompts(90, 6)
    whole, half = split_prompts(prompts), split_prompts(prompts[::-2])
    for part, own in half.parts().items():
        assert set(own) <= set(whole.parts()[part])
    assert [each for each in prompts if each in whole.test] == list(whole.test)


def test_a_prompt_counts_once_and_no_part_is_empty() -> None:
    prompts = sample_prompts(30, 7)
    doubled = [*prompts, *(Prompt(prompt=each.prompt.upper(), seed=9) for each in prompts)]
    assert split_prompts(doubled) == split_prompts(prompts)
    with pytest.raises(PromptError, match="1 distinct prompts leave none to"):
        split_prompts([Prompt(prompt="same")] * 40)


def test_the_order_of_a_verdict_does_not_follow_the_file() -> None:
    """Themes come mixed; a prompt's videos stay together, in their order."""
    themes = [Prompt(prompt=f"{theme} {number}", seed=number) for theme in ("a cat", "a city") for number in range(300)]
    ordered = in_chance_order(themes)
    assert ordered == in_chance_order(themes[::-1])
    assert sorted(ordered, key=themes.index) == themes
    for start in range(0, 600, 100):
        cats = sum(each.prompt.startswith("a cat") for each in ordered[start : start + 100])
        assert abs(cats - 50) <= 20  # four standard deviations
    again = [
        Prompt(prompt=text, seed=seed) for seed, text in enumerate(("A cat", "a dog", "a  cat", "a bird", "a cat"))
    ]
    seeds = [each.seed for each in in_chance_order(again)]
    first = seeds.index(0)
    assert seeds[first : first + 3] == [0, 2, 4]
