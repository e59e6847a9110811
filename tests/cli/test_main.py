"""What all verbs share: help, exit codes, one line per mistake."""

import re
import signal
import time
import warnings
from pathlib import Path

import click
import pytest

from pabtune.cli import main as main_module
from pabtune.cli.main import VERB_LINES, main
from pabtune.parallel.process import OUTCOMES
from pabtune.planning.presets import PRESETS
from pabtune.records.errors import PabtuneWarning
from pabtune.records.policies import Policy
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
    assert "stopped; written files are complete" in stderr
    assert "Traceback" not in stderr
    assert '"outcome"' in journal.read_text()


def files(folder: Path) -> dict[str, str]:
    (folder / "broken.json").write_text('{"schema": "pabtune.policy/2", ')
    (folder / "unknown.json").write_text('{"schema": "pabtune.policy/2", "name": "x", "rules": [], "colour": 1}')
    (folder / "newer.json").write_text('{"schema": "pabtune.policy/9", "name": "x", "rules": []}')
    (folder / "empty.txt").write_text("")
    (folder / "file").write_text("")
    (folder / "one.txt").write_text("red\n")
    write_prompts(folder / "many.txt", 54, 6)
    return {"T": str(folder), "POLICY": POLICY, "PROFILE": PROFILE}


def words_of(command: str, folder: Path) -> list[str]:
    """The words of a command, with the places of files for their short names."""
    places, words = files(folder), []
    for word in command.split():
        key, slash, rest = word.partition("/")
        words.append(f"{places.get(key, key)}{slash}{rest}")
    return words


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
    "prompts of another model": ("prompts wan --count 3 --out T/p.jsonl", "it knows shapes, split, vbench"),
    "unwritable demo": ("demo --out T/file/demo", "cannot write here"),
    "no such device": ("generate shapes --device warp --prompt red --out T/v.mp4", "device"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_exit_with_two_and_one_clear_line(pabtune, tmp_path, name) -> None:
    command, message = MISTAKES[name]
    assert message in pabtune(*words_of(command, tmp_path)).refusal()


READERS = {
    "a policy": ("cost PROFILE --policy T/x", '{"schema": "pabtune.policy/2", "name": X, "rules": []}'),
    "its evidence": (
        "generate shapes --prompt red --out T/v.gif --policy T/x",
        '{"schema": "pabtune.policy/2", "name": "x", "rules": [], "evidence": {"drop": X}}',
    ),
    "a profile": ("search T/x --budget shapes>=-1 --out T/o.json", '{"schema": "pabtune.profile/2", "name": X}'),
    "a link": (
        "cost PROFILE --policy none --link T/x",
        '{"schema": "pabtune.link/1", "name": "x", "seconds": 1, "bytes_per_second": 1, "provenance": {"a": X}}',
    ),
    "a layout": (
        "generate shapes --prompt red --out T/v.gif --layout T/x",
        '{"schema": "pabtune.layout/1", "samples": X}',
    ),
    "a line of prompts": ("profile shapes --prompts T/x --out T/p.json", '{"prompt": X}'),
    "a model": ("models --sites T", '{"_class_name": "ShapesPipeline", "transformer": X}'),
}
"""What reads JSON, and a file of that kind with a place for a value."""

VALUES = {
    "endless": "[" * 100_000,
    "deep": "[" * 1000 + "]" * 1000,
    "deep objects": '{"a": ' * 1000 + "1" + "}" * 1000,
    "half a character": r'"\ud800"',
    "beyond floats": "1e999",
    "5,000 digits": "9" * 5000,
    "no number": "NaN",
}


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("reader", READERS)
def test_json_that_is_deep_endless_or_beyond_its_types_is_refused(pabtune, tmp_path, reader, value) -> None:
    """Fault 19: recursion, lone surrogates, 1e999 and 5,000 digits were tracebacks, wherever JSON is read."""
    command, document = READERS[reader]
    (tmp_path / ("model_index.json" if reader == "a model" else "x")).write_text(document.replace("X", VALUES[value]))
    assert str(tmp_path) in pabtune(*words_of(command, tmp_path)).refusal()


WORKING = {
    "demo": "",
    "demo-parallel": "",
    "profile": "shapes --steps 2 --prompts T/one.txt --out T/p.json",
    "search": "PROFILE --budget shapes>=-1 --trials 1 --prompts T/many.txt --out T/o.json",
    "generate": "shapes --prompt red --steps 2 --out T/v.gif",
    "evaluate": "shapes --policy none --steps 2 --prompts T/one.txt",
    "compare": "shapes --methods fora --steps 4 --prompts T/one.txt --out T/c",
    "export": "pab246 --to diffusers",
    "bench-links": "--out T/l.json",
    "cost": "shapes --policy none",
    "prompts shapes": "--count 1 --out T/p.jsonl",
    "prompts vbench": "--dimension color --out T/p.jsonl",
    "prompts split": "T/many.txt --out T/parts",
    "models": "",
    "policies": "",
}
"""What each verb works with."""


def command_of(verb: str) -> click.Command:
    """The command of a verb, or of a verb and a word behind it."""
    command = main
    for word in verb.split():
        command = command.get_command(click.Context(command), word)
    return command


PARAMETERS = [
    (verb, parameter.name)
    for verb in WORKING
    for parameter in command_of(verb).params
    if not getattr(parameter, "is_flag", False)
]


@pytest.mark.parametrize(("verb", "name"), PARAMETERS)
def test_a_value_of_any_length_is_answered_in_one_line(pabtune, tmp_path, verb, name) -> None:
    """Fault 21: a wrong value was printed whole, and a name that no file can have was a traceback."""
    (parameter,) = (each for each in command_of(verb).params if each.name == name)
    words, value = words_of(WORKING[verb], tmp_path), "9" * 100_000 + (".gif" if verb == "generate" else ".json")
    if isinstance(parameter, click.Argument):
        words[0] = value
    elif parameter.multiple:  # a prompt that comes first is the first to be refused
        words[1:1] = [parameter.opts[0], value]
    else:
        words += [parameter.opts[0], value]
    line = pabtune(*verb.split(), *words).refusal()
    assert "9999" in line or name in line


@pytest.mark.slow
def test_a_warning_is_one_line_without_the_code_that_it_comes_from(tmp_path) -> None:
    """The search for an engine showed the path of pabtune's own file, and a line of it. A process: pytest hides warnings."""
    policy = tmp_path / "undecided.json"
    evidence = {"verdict": "undecided", "budget": "shapes>=-1"}
    Policy(name="undecided", rules=PRESETS["pab246"].rules, evidence=evidence).save(policy)
    words = ("generate", "shapes", "--policy", str(policy), "--prompt", "red", "--steps", "9", "--any-steps")
    process = start(*words, "--out", str(tmp_path / "v.gif"))
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    (line,) = [each for each in stderr.splitlines() if "undecided" in each]
    assert line.startswith("warning: policy 'undecided': its budget shapes>=-1 could not be decided")
    assert ".py:" not in stderr


@pytest.mark.parametrize("words", [(), ("prompts",), ("vbench",), ("policies", "show")])
def test_a_command_without_words_shows_its_help(pabtune, words) -> None:
    """It was squeezed into one line behind `error:`, the first thing that a new user saw."""
    done = pabtune(*words)
    assert (done.returncode, done.stdout) == (2, "")
    if words != ("policies", "show"):
        assert done.stderr.startswith("Usage: ")
        assert len(done.stderr.splitlines()) > 8
    else:
        assert done.stderr.startswith("error: Missing argument")


@pytest.mark.parametrize(("rank", "folder", "told"), [("0", None, True), ("1", None, False), ("1", "shared", True)])
def test_of_processes_that_share_a_video_the_first_one_warns(monkeypatch, tmp_path, rank, folder, told) -> None:
    """Each printed the same line; workers of a search, which share files alone, have warnings of their own."""
    monkeypatch.setenv("RANK", rank)
    if folder is not None:
        monkeypatch.setenv(OUTCOMES, str(tmp_path))
    with main_module._warnings_in_one_line():
        line = warnings.formatwarning(PabtuneWarning("carried"), PabtuneWarning, "f.py", 1)
    assert line == ("warning: carried\n" if told else "")
