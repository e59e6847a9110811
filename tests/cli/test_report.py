"""`pabtune report`, after verbs that really ran, and where there is nothing to show."""

import json
import os
from pathlib import Path

import pytest

from tests.cli.conftest import POLICY, write_prompts
from tests.report.folders import FRONT, leave_all


def test_the_page_is_written_into_its_folder(pabtune, tmp_path) -> None:
    leave_all(tmp_path)
    document = pabtune("report", str(tmp_path), "--json").document()
    page = tmp_path / "report.html"
    assert document["report"] == str(page)
    assert document["bytes"] == page.stat().st_size > 100_000
    counts = [document[each] for each in ("policies", "profiles", "evaluations", "videos")]
    assert counts == [1 + len(list(FRONT.glob("*.json"))), 1, 1, 8]
    first = page.read_bytes()
    assert pabtune("report", str(tmp_path), "--json").document() == document
    assert page.read_bytes() == first


def test_an_evaluation_leaves_what_a_page_is_made_of(pabtune, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    prompts = write_prompts(tmp_path / "p.jsonl", 3, 5, part="test")
    words = ("evaluate", "shapes", "--policy", "pab246", "--policy", "steps:4", "--steps", "6", "--prompts", prompts)
    told = pabtune(*words, "--any-steps", "--budget", "shapes>=-90", "--out", "left", "--json").document()
    left = json.loads((tmp_path / "left" / "evaluation.json").read_text())
    assert left == told
    assert (left["schema"], left["steps"], left["split"]) == ("pabtune.evaluation/1", 6, "test")
    assert left["made_by"]["command"][:4] == ["evaluate", "shapes", "--policy", "pab246"]
    assert "p.jsonl" in left["made_by"]["command"]  # from the current folder on
    for policy, row in zip(("pab246", "steps:4"), left["policies"], strict=True):
        videos = [each for each in left["videos"] if each["policy"] == policy]
        assert len(videos) == 3
        assert videos[0]["psnr_db"] == row["fidelity"]["worst_psnr_db"]
        assert all((tmp_path / "left" / each[key]).stat().st_size > 0 for each in videos for key in ("with", "without"))
    page = pabtune("report", "left", "--out", "deep/er/page.html", "--json").document()
    html = (tmp_path / "deep" / "er" / "page.html").read_text()
    assert page["videos"] == 12
    assert f"{left['policies'][0]['speedup']:.2f}×" in html
    assert "--budget &#39;shapes&gt;=-90&#39;" in html


def test_videos_of_policies_of_one_name_would_be_the_same_files(pabtune, tmp_path) -> None:
    words = ("evaluate", "shapes", "--policy", "none", "--policy", "none", "--steps", "4", "--out", str(tmp_path / "x"))
    assert "two policies are called 'none'" in pabtune(*words).refusal()


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({}, "holds nothing that pabtune measured; run `pabtune demo --out"),
        ({"notes.txt": "x", "a.json": "[1, 2]"}, "holds nothing that pabtune measured"),
        ({"a.json": '{"name": "cut off before it says what it is", '}, "a.json: broken JSON"),
        ({"a.json": '{"schema": "pabtune.policy/2", '}, "a.json: broken JSON"),
        ({"a.json": '{"schema": "pabtune.policy/9", "name": "x", "rules": []}'}, "made by another version of pabtune"),
        ({"a.json": '{"schema": "pabtune.evaluation/2"}'}, "made by another version of pabtune"),
        ({"a.json": '{"schema": "pabtune.evaluation/1", "model": 3}'}, "a.json"),
        ({"a.json": '{"schema": "pabtune.comparison/1", "settings": []}'}, "a.json"),
        ({"a.json": '{"schema": "pabtune.profile/2", "arrays": {}}'}, "a.json"),
    ],
)
def test_what_cannot_be_shown_is_refused_in_one_line(pabtune, tmp_path, files, told) -> None:
    (tmp_path / "sub").mkdir()
    for name, text in files.items():
        (tmp_path / "sub" / name).write_text(text)
    assert told in pabtune("report", str(tmp_path)).refusal()
    assert not (tmp_path / "report.html").exists()


def test_wrong_places_are_refused_in_one_line(pabtune, tmp_path) -> None:
    assert "there is no such folder" in pabtune("report", str(tmp_path / "gone")).refusal()
    assert "is a file; name its folder" in pabtune("report", POLICY).refusal()
    (tmp_path / "p.json").write_bytes(Path(POLICY).read_bytes())
    (tmp_path / "folder").mkdir()
    assert "is a folder; name a file" in pabtune("report", str(tmp_path), "--out", str(tmp_path / "folder")).refusal()
    os.mkfifo(tmp_path / "pipe.json")
    assert pabtune("report", str(tmp_path)).returncode == 0
