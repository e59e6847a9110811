"""The command line, called in this process or as a process of its own."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import pabtune as package
from pabtune.cli.main import run
from pabtune.models.registry import load_pipeline
from pabtune.models.shapes.prompts import sample_prompts
from pabtune.records.prompts import save_prompts
from pabtune.records.splits import Part

ROOT = Path(__file__).parent.parent.parent
POLICY = str(ROOT / "policies" / "shapes-30steps.json")
FRONT_POLICY = str(ROOT / "policies" / "shapes-30steps-front" / "shapes-30steps-12of30.json")
PROFILE = str(ROOT / "profiles" / "shapes-30steps.json")


@dataclass
class Done:
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str

    def document(self, code: int = 0) -> dict:
        """The JSON document on stdout."""
        assert self.returncode == code, self.stderr
        return json.loads(self.stdout)

    def refusal(self) -> str:
        """The one line that says what was wrong with the input: no document, no traceback, nothing that fills a screen."""
        assert self.returncode == 2, self.stderr
        assert self.stdout == ""
        assert "Traceback" not in self.stderr
        (line,) = [line for line in self.stderr.splitlines() if line.strip()]
        assert line.startswith("error: ")
        assert len(line) <= 500
        return line


@pytest.fixture
def pabtune(capsys):
    """Calls the command in this process: everything but the interpreter's start is real."""

    def call(*words: str) -> Done:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            run(words)
        told = capsys.readouterr()
        return Done(returncode=ended.value.code, stdout=told.out, stderr=told.err)

    return call


def start(*words: str, **options) -> subprocess.Popen:
    """The command as a process, which heeds an interrupt even where the tests run in the background."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / "cli.py"), *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL), **options,
    )  # fmt: skip


def call(*words: str, launcher: tuple[str, ...] = ()) -> subprocess.CompletedProcess:
    """The command as a process of its own, until it ends."""
    command = [sys.executable, *launcher, str(ROOT / "cli.py"), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)


def write_prompts(path: Path, count: int, seed: int, part: Part | None = None) -> str:
    """Captions in a file, of one part of the split or of any; its name."""
    save_prompts(path, sample_prompts(count, seed, part))
    return str(path)


@pytest.fixture(scope="session")
def short_profile(tmp_path_factory) -> str:
    """A profile of the shipped model over 6 steps."""
    path = tmp_path_factory.mktemp("profile") / "short.json"
    pipeline = load_pipeline("shapes")
    package.profile(pipeline, sample_prompts(12, 6), 6, name="short", model="shapes").save(path)
    return str(path)
