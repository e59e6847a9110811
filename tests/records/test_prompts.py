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
