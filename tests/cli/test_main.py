"""The command line as a user meets it: real processes, real files, the shipped model."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
POLICY = str(ROOT / "policies" / "shapes-30steps.json")
PROFILE = str(ROOT / "profiles" / "shapes-30steps.json")


def pabtune(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(ROOT / "cli.py"), *words], capture_output=True, text=True, cwd=cwd, timeout=300, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def document(done: subprocess.CompletedProcess, code: int = 0) -> dict:
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def prompts(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("prompts") / "p.jsonl"
    made = document(pabtune("prompts", "shapes", "--count", "6", "--seed", "5", "--out", str(path), "--json"))
    assert made["contents"] == {"fast": 2, "slow": 2, "still": 2}
    return path


def test_help_and_version() -> None:
    done = pabtune("--help")
    assert done.returncode == 0
    verbs = re.findall(r"^  (\w+)  ", done.stdout.split("Verbs:")[1], re.MULTILINE)
    assert verbs == ["demo", "profile", "search", "generate", "evaluate", "prompts", "models", "policies"]
    assert pabtune("--version").stdout.startswith("pabtune, version 0.1")
    for verb in verbs:
        assert pabtune(verb, "--help").returncode == 0


def test_listings() -> None:
    assert "shapes" in document(pabtune("models", "--json"))["models"]
    assert list(document(pabtune("policies", "--json"))["presets"]) == ["none", "pab246", "pab357", "pab579"]
    assert "pab246" in pabtune("policies").stdout


def test_profile_writes_a_profile_and_events(prompts, tmp_path) -> None:
    out = tmp_path / "deep" / "p.json"
    done = pabtune(
        "profile", "shapes", "--prompts", str(prompts), "--steps", "6", "--out", str(out), "--logdir",
        str(tmp_path / "log"), "--json",
    )  # fmt: skip
    made = document(done)
    assert made["prompts"] == {"fast": 2, "slow": 2, "still": 2}
    assert set(made["windows"]) == {"fast", "slow", "still", "all"}
    assert made["overhead"] > 0
    assert out.exists()
    assert out.with_suffix(".safetensors").exists()
    assert list((tmp_path / "log").glob("events.*"))


def test_search_resumes_and_writes_a_policy(prompts, tmp_path) -> None:
    profile, out = tmp_path / "p.json", tmp_path / "found.json"
    pabtune("profile", "shapes", "--prompts", str(prompts), "--steps", "6", "--out", str(profile))
    many = tmp_path / "many.jsonl"
    pabtune("prompts", "shapes", "--count", "18", "--seed", "6", "--out", str(many))
    words = ("search", str(profile), "--budget", "shapes>=-80", "--prompts", str(many), "--out", str(out))
    words += ("--logdir", str(tmp_path / "log"), "--floor", "none", "--json")
    first = document(pabtune(*words, "--trials", "3"))
    again = document(pabtune(*words, "--trials", "4"))
    assert (first["study"], first["trials"]) == (again["study"], again["trials"] - 1)
    assert again["verdict"] == "accept"
    assert json.loads(out.read_text())["evidence"]["verdict"] == "accept"
    assert (tmp_path / "log" / "study.journal").exists()


def test_a_variant_per_content_class(tmp_path) -> None:
    profile, out, many = tmp_path / "p.json", tmp_path / "found.json", tmp_path / "many.jsonl"
    pabtune("prompts", "shapes", "--count", "36", "--seed", "6", "--out", str(many))
    pabtune("profile", "shapes", "--prompts", str(many), "--steps", "6", "--out", str(profile))
    done = pabtune(
        "search", str(profile), "--budget", "shapes>=-80", "--trials", "2", "--prompts", str(many), "--out", str(out),
        "--logdir", str(tmp_path / "log"), "--floor", "none", "--per-content", "--json",
    )  # fmt: skip
    assert document(done)["variants"] == {"fast": "accept", "slow": "accept", "still": "accept"}
    assert set(json.loads(out.read_text())["variants"]) == {"fast", "slow", "still"}
    words = ("generate", "shapes", "--policy", str(out), "--prompt", "a red square", "--steps", "6")
    row = document(pabtune(*words, "--content", "fast", "--out", str(tmp_path / "v.gif"), "--json"))["videos"][0]
    assert row["broadcast_calls"]


def test_an_impossible_budget_exits_with_one(tmp_path) -> None:
    """Only trials that broadcast nothing lose nothing for certain, and those are no policy."""
    many = tmp_path / "many.jsonl"
    profile = tmp_path / "p.json"
    pabtune("prompts", "shapes", "--count", "12", "--seed", "6", "--out", str(many))
    pabtune("profile", "shapes", "--prompts", str(many), "--steps", "6", "--out", str(profile))
    done = pabtune(
        "search", str(profile), "--budget", "shapes>=0", "--trials", "1", "--prompts", str(many), "--out",
        str(tmp_path / "none.json"), "--logdir", str(tmp_path / "log"), "--json",
    )  # fmt: skip
    found = document(done, code=1)
    assert found["verdict"] is None
    assert found["policy"] is None
    assert not (tmp_path / "none.json").exists()


@pytest.mark.parametrize("suffix", [".mp4", ".gif"])
def test_generate_says_what_it_did(tmp_path, suffix) -> None:
    out = tmp_path / f"v{suffix}"
    done = pabtune(
        "generate", "shapes", "--policy", POLICY, "--prompt", "a red square moves slowly to the left", "--seed", "3",
        "--out", str(out), "--compare", "--json",
    )  # fmt: skip
    row = document(done)["videos"][0]
    assert out.stat().st_size > 500
    assert sum(row["broadcast_calls"].values()) > 0
    assert row["psnr_db"] > 20
    assert row["speedup"] > 0
    assert row["stored_bytes"] == 0
    assert "broadcast" in done.stderr


def test_generate_numbers_several_prompts(prompts, tmp_path) -> None:
    words = ("generate", "shapes", "--prompts", str(prompts), "--steps", "2", "--out", str(tmp_path / "v.gif"))
    rows = document(pabtune(*words, "--json"))["videos"]
    assert [Path(row["out"]).name for row in rows] == [f"v-{index:03d}.gif" for index in range(6)]
    assert all(Path(row["out"]).exists() for row in rows)


def test_evaluate_prints_the_promised_document(prompts) -> None:
    words = ("evaluate", "shapes", "--policy", "none", "--policy", "pab246", "--prompts", str(prompts), "--steps", "8")
    none, paper = document(pabtune(*words, "--json"))["policies"]
    assert set(none) >= {
        "policy", "compute_fraction", "latency_s", "speedup", "fidelity", "score", "computed_calls",
    }  # fmt: skip
    assert (none["policy"], paper["policy"]) == ("none", "pab246")
    assert none["compute_fraction"] == 1.0 > paper["compute_fraction"]
    assert none["fidelity"] == {"psnr_db": 100.0, "ssim": pytest.approx(1.0)}
    assert none["score"]["drop"] == 0.0
    assert set(paper["score"]) == {"name", "baseline", "policy", "drop"}


def files(folder: Path) -> dict[str, str]:
    (folder / "broken.json").write_text('{"schema": "pabtune.policy/1", ')
    (folder / "unknown.json").write_text('{"schema": "pabtune.policy/1", "name": "x", "rules": [], "colour": 1}')
    (folder / "newer.json").write_text('{"schema": "pabtune.policy/9", "name": "x", "rules": []}')
    (folder / "empty.txt").write_text("")
    (folder / "file").write_text("")
    return {"T": str(folder), "POLICY": POLICY, "PROFILE": PROFILE}


MISTAKES = {
    "wrong verb": ("fly", "No such command 'fly'"),
    "wrong flag": ("models --jsn", "No such option"),
    "wrong model": ("generate shapez --prompt x --out T/v.mp4", "unknown model 'shapez'"),
    "no model folder": ("generate ./nothing --prompt x --out T/v.mp4", "unknown model './nothing'"),
    "wrong word": ("generate shapes --prompt purple --out T/v.mp4", "unknown word 'purple'"),
    "no prompt": ("generate shapes --out T/v.mp4", "say what to draw"),
    "wrong suffix": ("generate shapes --prompt red --out T/v.avi", "must end in .mp4 or .gif"),
    "unwritable video": ("generate shapes --prompt red --out T/file/v.mp4", "cannot write here"),
    "wrong policy": ("generate shapes --policy pab1 --prompt red --out T/v.mp4", "neither a policy file nor a preset"),
    "broken policy": ("generate shapes --policy T/broken.json --prompt red --out T/v.mp4", "broken JSON in line 1"),
    "unknown key": ("evaluate shapes --policy T/unknown.json", "'colour' was unexpected"),
    "newer schema": ("evaluate shapes --policy T/newer.json", "made by another version of pabtune"),
    "wrong content": (
        "generate shapes --content wild --prompt red --policy none --out T/v.mp4",
        "no variant for content",
    ),
    "missing prompts": ("profile shapes --prompts T/none.txt --out T/p.json", "No such file"),
    "empty prompts": ("profile shapes --prompts T/empty.txt --out T/p.json", "holds no prompts"),
    "one step": ("profile shapes --steps 1 --out T/p.json", "at least 2 steps"),
    "zero steps": ("generate shapes --steps 0 --prompt red --out T/v.mp4", "0 is not in the range"),
    "unwritable profile": ("profile shapes --out T/file/p.json", "cannot write here"),
    "missing profile": ("search T/none.json --budget shapes>=-1 --out T/o.json", "No such file"),
    "a policy as profile": ("search POLICY --budget shapes>=-1 --out T/o.json", "not a pabtune.profile file"),
    "unknown score": ("search PROFILE --budget beauty>=-1 --out T/o.json", "unknown score 'beauty'"),
    "odd budget": ("search PROFILE --budget shapes --out T/o.json", "a budget reads SCORE>=-DROP"),
    "zero trials": ("search PROFILE --budget shapes>=-1 --trials 0 --out T/o.json", "at least 1 trial"),
    "unwritable policy": ("search PROFILE --budget shapes>=-1 --out T/file/o.json", "cannot write here"),
    "odd storage": ("search PROFILE --budget shapes>=-1 --trials 1 --out T/o.json --storage T/x.txt", "neither a URL"),
    "odd score": ("evaluate shapes --policy none --score beauty", "unknown score 'beauty'"),
    "prompts of another model": ("prompts wan --count 3 --out T/p.jsonl", "only the embedded model"),
    "unwritable demo": ("demo --out T/file/demo", "cannot write here"),
    "no such device": ("generate shapes --device warp --prompt red --out T/v.mp4", "device"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_exit_with_two_and_one_clear_line(tmp_path, name) -> None:
    command, message = MISTAKES[name]
    places = files(tmp_path)
    words = []
    for word in command.split():
        for key, value in places.items():
            if word == key or word.startswith(f"{key}/"):
                word = word.replace(key, value, 1)  # noqa: PLW2901
        words.append(word)
    done = pabtune(*words)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    assert message in lines[0]
