from pathlib import Path

import pytest

from pabtune.records.errors import PromptError
from pabtune.records.prompts import Prompt, digest_prompts, load_prompts, save_prompts


def test_a_file_gives_the_same_prompts_back(tmp_path: Path) -> None:
    prompts = [Prompt(prompt="a", content="still", seed=5), Prompt(prompt="b", content="fast", seed=6)]
    save_prompts(tmp_path / "p.jsonl", prompts)
    assert load_prompts(tmp_path / "p.jsonl", seed=5) == prompts


def test_plain_lines_and_own_seeds(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text('a red square\n\n{"prompt": "b", "seed": 7}\n')
    assert load_prompts(tmp_path / "p.txt") == [
        Prompt(prompt="a red square", content="any", seed=0),
        Prompt(prompt="b", content="any", seed=7),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\n", "holds no prompts"),
        ('{"prompt": "a"', "line 1: broken JSON"),
        ('{"prompt": "a", "style": 1}', "unknown key 'style'"),
        ('{"content": "still"}', "`prompt` must be there"),
        ('{"prompt": "a", "seed": -1}', "at least 0"),
    ],
)
def test_broken_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "p.jsonl").write_text(text)
    with pytest.raises(PromptError, match=message):
        load_prompts(tmp_path / "p.jsonl")
    with pytest.raises(PromptError, match="cannot read"):
        load_prompts(tmp_path / "none")


def test_the_digest_sees_seeds_and_order() -> None:
    a, b = Prompt(prompt="a"), Prompt(prompt="b")
    assert len({digest_prompts(p) for p in ([a, b], [b, a], [a, Prompt(prompt="b", seed=1)])}) == 3


def test_a_prompt_with_other_seeds() -> None:
    """Each number gives one of its own, which no seed nearby has."""
    prompts = [Prompt(prompt="a", content="b", seed=seed) for seed in (0, 1, 2**63 - 1)]
    every = [prompt.reseeded(number) for prompt in prompts for number in range(4)]
    assert every[::4] == prompts
    assert len({each.seed for each in every}) == 12
    assert {(each.prompt, each.content) for each in every} == {("a", "b")}


@pytest.mark.parametrize("text", ["a red square\n", '{"prompt": "a red square"}\n'])
def test_a_byte_order_mark_is_no_part_of_a_prompt(tmp_path: Path, text: str) -> None:
    """Fault 26: editors on Windows write it."""
    (tmp_path / "p.txt").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert load_prompts(tmp_path / "p.txt") == [Prompt(prompt="a red square")]
    (tmp_path / "p.txt").write_bytes(text.encode("utf-16"))
    with pytest.raises(PromptError, match="not a text file in UTF-8"):
        load_prompts(tmp_path / "p.txt")


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ('["a", "b"]', "a JSON array"),
        ('[\n  {"prompt": "a"},\n  {"prompt": "b"}\n]', "a JSON array"),
        ("[]", "a JSON array"),
        ("[", "a JSON array"),
        ("- a red square\n- a blue circle\n", "a list in YAML"),
        ("prompts:\n  - a\n", "YAML"),
        ("- prompt: a\n  seed: 1\n", "YAML"),
        ("---\na\n", "YAML"),
        ("prompt,seed\na,1\n", "a table"),
    ],
)
def test_prompts_in_another_form_are_not_read_line_by_line(tmp_path: Path, text: str, form: str) -> None:
    """Fault 26: each line of a JSON array or of YAML was taken for a prompt, without a word."""
    for mark in (b"", b"\xef\xbb\xbf"):
        (tmp_path / "p.txt").write_bytes(mark + text.encode())
        with pytest.raises(PromptError, match=f"looks like {form}; write one prompt per line"):
            load_prompts(tmp_path / "p.txt")


@pytest.mark.parametrize("text", ["- a dash", "[slow motion] a cat", "a cat: it runs", "prompt engineering"])
def test_prompts_that_only_resemble_another_form_are_read(tmp_path: Path, text: str) -> None:
    (tmp_path / "p.txt").write_text(text)
    assert load_prompts(tmp_path / "p.txt") == [Prompt(prompt=text)]
