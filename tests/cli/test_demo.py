"""The demo: all of it as `make demo` runs it (slow), and a small one."""

import pytest
import torch

from pabtune.cli import demo
from pabtune.models.registry import load_pipeline
from pabtune.models.shapes.prompts import sample_prompts
from pabtune.records.errors import FileError
from pabtune.records.files import load_json
from pabtune.records.profiles import Profile
from pabtune.records.trials import SCHEMA

FILES = ("profile.json", "profile.safetensors", "policy.json", "u-shape.png", "side-by-side.png", "video-0.mp4")


def check(document: dict, folder, stderr: str, trials: int, unseen: int) -> None:
    assert document["trials"] == trials
    found, paper, *fewer = document["policies"]
    assert document["speedup"] == found["speedup"]
    assert all(row["policy"].startswith("steps:") for row in fewer)
    assert found["compute_fraction"] < 1.0
    assert (paper["policy"], paper["prompts"]) == ("pab246", unseen)
    assert all((folder / name).stat().st_size > 0 for name in FILES)
    assert "gains and costs on" in stderr
    check_page(document, folder, stderr)


def check_page(document: dict, folder, stderr: str) -> None:
    """The page is the last thing that is said; it shows what the demo measured, and how to do so again."""
    assert document["report"] == str(folder / "report.html")
    assert str(folder / "report.html") in stderr.strip().splitlines()[-1]
    html = (folder / "report.html").read_text()
    assert html.count("<video ") == 2 * min(demo.SHOWN, document["judgement"]["prompts"])
    assert "pabtune demo --out" in html
    found = load_json(folder / "policy.result.json", SCHEMA, FileError)
    assert found["trials"] == len(found["tried"]) == document["trials"]
    assert [row["psnr_db"] for row in found["worst"]] == sorted(row["psnr_db"] for row in found["worst"])
    assert found["worst"][0]["psnr_db"] == found["judged"]["fidelity"]["worst_psnr_db"]


def check_profile(path) -> None:
    """A second demo takes the profile, and with it the study, so that its verdict is no further look."""
    pipeline, prompts = load_pipeline("shapes"), sample_prompts(1, 1, "tune")
    assert demo._profile_of_before(pipeline, prompts, path).digest == Profile.load(path).digest
    assert demo._profile_of_before(pipeline, sample_prompts(2, 1, "tune"), path) is None
    assert demo._profile_of_before(pipeline, prompts, path.with_name("nothing.json")) is None
    with torch.no_grad():
        next(pipeline.transformer.parameters()).add_(1.0)
    assert demo._profile_of_before(pipeline, prompts, path) is None


@pytest.mark.filterwarnings("ignore:policy 'demo'")  # undecided on one prompt
def test_the_demo_does_the_main_job(pabtune, tmp_path, monkeypatch) -> None:
    """Fault 27: two trials, so that the finalist is the floor; three prompts judge nothing."""
    small = {
        "PROFILED": 1,
        "TUNED": 1,
        "VALIDATED": 1,
        "TESTED": 3,
        "SHOWN": 1,
        "BUDGET": "shapes>=-100",
        "SCHEDULE_SHARES": (),
    }
    for name, value in small.items():
        monkeypatch.setattr(demo, name, value)
    done = pabtune("demo", "--out", str(tmp_path), "--trials", "2", "--json")
    document = done.document(code=1)
    assert document["verdict"] == document["judgement"]["verdict"] == "undecided"
    assert document["judgement"]["prompts"] == 3
    check(document, tmp_path, done.stderr, 2, 1)
    check_profile(tmp_path / "profile.json")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_demo_finds_a_policy(pabtune, tmp_path) -> None:
    """Fault 27: exit codes 0 and 1 both passed."""
    done = pabtune("demo", "--out", str(tmp_path), "--json")
    document = done.document()
    assert document["verdict"] == "accept"
    check(document, tmp_path, done.stderr, demo.TRIALS, demo.VALIDATED)
    found, _, fewer = document["policies"]
    assert document["judgement"]["prompts"] > 80
    assert found["speedup"] > 2.0
    assert found["fidelity"]["psnr_db"] > fewer["fidelity"]["psnr_db"] + 1
