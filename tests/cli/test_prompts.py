from pabtune.records.prompts import load_prompts


def test_prompts_are_balanced_and_the_same_again(pabtune, tmp_path) -> None:
    first, again, other = (tmp_path / name for name in ("a.jsonl", "b.jsonl", "c.jsonl"))
    made = pabtune("prompts", "shapes", "--count", "6", "--seed", "5", "--out", str(first), "--json").document()
    assert made["contents"] == {"fast": 2, "slow": 2, "still": 2}
    assert pabtune("prompts", "shapes", "--count", "6", "--seed", "5", "--out", str(again)).returncode == 0
    assert pabtune("prompts", "shapes", "--count", "6", "--seed", "6", "--out", str(other)).returncode == 0
    assert first.read_text() == again.read_text() != other.read_text()
    assert len(load_prompts(first)) == 6
