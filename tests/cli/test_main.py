"""What all verbs share: help, exit codes, one line per mistake."""

import re
import signal
import time
from pathlib import Path

import pytest

from pabtune.cli.main import VERB_LINES
from tests.cli.conftest import POLICY, PROFILE, start, write_prompts


def test_help_and_version(pabtune) -> None:
    done = pabtune("--help")
    assert done.returncode == 0
    assert re.findall(r"^  ([\w-]+)  ", done.stdout.split("Verbs:")[1], re.MULTILINE) == list(VERB_LINES)
    assert pabtune("--version").stdout.startswith("pabtune, version 0.1")


@pytest.mark.parametrize("verb", VERB_LINES)
def test_every_verb_has_help(pabtune, verb) -> None:
    done = pabtune(verb, "--help")
    assert done.returncode == 0
    assert done.stdout.startswith("Usage: ")


def test_a_real_process_keeps_stdout_for_the_document() -> None:
    process = start("policies", "--json")
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 0
    assert stdout.startswith("{")
    assert not stderr


def test_interrupting_a_search_keeps_its_trials_and_says_so(short_profile, tmp_path) -> None:
    many = write_prompts(tmp_path / "many.jsonl", 12, 6)
    journal = tmp_path / "study.journal"
    process = start(
        "search", short_profile, "--budget", "shapes>=-80", "--trials", "500", "--prompts", many, "--floor", "none",
        "--out", str(tmp_path / "found.json"), "--logdir", str(tmp_path),
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 120
        while not (journal.exists() and '"outcome"' in journal.read_text()) and time.monotonic() < deadline:
            time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, stderr
    assert not stdout
    assert "stopped; all written files are complete" in stderr
    assert "Traceback" not in stderr
    assert '"outcome"' in journal.read_text()


def files(folder: Path) -> dict[str, str]:
    (folder / "broken.json").write_text('{"schema": "pabtune.policy/2", ')
    (folder / "unknown.json").write_text('{"schema": "pabtune.policy/2", "name": "x", "rules": [], "colour": 1}')
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
    "no prompt": ("generate shapes --out T/v.mp4", "no prompt given"),
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
    "odd memory": ("generate shapes --memory lots --prompt red --out T/v.mp4", "is not an amount of memory"),
    "too little memory": (
        "generate shapes --memory 1KiB --policy POLICY --prompt red --out T/v.mp4",
        "more than the limit of 1.00 KiB",
    ),
    "prompts of another model": ("prompts wan --count 3 --out T/p.jsonl", "only the embedded model"),
    "unwritable demo": ("demo --out T/file/demo", "cannot write here"),
    "no such device": ("generate shapes --device warp --prompt red --out T/v.mp4", "device"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_exit_with_two_and_one_clear_line(pabtune, tmp_path, name) -> None:
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
