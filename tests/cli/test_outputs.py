"""Files that a verb reads stay as they are, whatever --out says."""

import shutil
from pathlib import Path

import pytest

from tests.cli.conftest import FRONT_POLICY, POLICY, PROFILE


@pytest.mark.parametrize(
    "words",
    [
        ("export", "read.json", "--to", "diffusers", "--out", "read.json"),
        ("policies", "between", "read.json", FRONT_POLICY, "--compute", "10", "--out", "./read.json"),
        ("policies", "between", FRONT_POLICY, "read.json", "--compute", "10", "--out", "read.json"),
        ("cost", PROFILE, "--policy", "read.json", "--gpus", "1,2", "--layout-out", "read.json"),
        ("prompts", "split", "test.jsonl", "--out", "."),
    ],
)
def test_what_is_read_is_not_written_to(pabtune, tmp_path, monkeypatch, words) -> None:
    """Each ended with exit code 0, and the policy, the profile or most of the prompts were gone."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(POLICY, "read.json")
    Path("test.jsonl").write_text('{"prompt": "a cat"}\n{"prompt": "a dog"}\n')
    before = {path: path.read_bytes() for path in Path().iterdir()}
    assert "this file is read too, and would be lost" in pabtune(*words).refusal()
    assert {path: path.read_bytes() for path in Path().iterdir()} == before


def test_a_page_does_not_take_the_place_of_a_policy(pabtune, tmp_path) -> None:
    """`report FOLDER --out FOLDER/policy.json` made HTML of it."""
    file = Path(shutil.copy(POLICY, tmp_path / "policy.json"))
    assert "must end in .html" in pabtune("report", str(tmp_path), "--out", str(file)).refusal()
    assert file.read_bytes() == Path(POLICY).read_bytes()


def test_a_policy_in_between_is_a_json_file(pabtune, tmp_path) -> None:
    out = tmp_path / "c.yaml"
    done = pabtune("policies", "between", POLICY, FRONT_POLICY, "--compute", "10", "--out", str(out))
    assert "must end in .json" in done.refusal()
    assert not out.exists()
