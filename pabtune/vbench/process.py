"""The process inside of VBench's environment: one request to `runner.py`, its answers line by line."""

import json
import subprocess
from collections.abc import Generator, Mapping
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from pabtune.records.errors import FileError, VbenchError
from pabtune.vbench.environment import Environment


def answers(environment: Environment, request: Mapping[str, Any], log: Path) -> Generator[dict[str, Any]]:
    """Starts the runner with a request; its answers, each as soon as it comes. It ends when the iterator is closed.

    A runner that dies ends the answers early: who asks knows which are missing.

    Args:
        environment: which.
        request: as `runner.py` describes it; `variables` are added.
        log: gets all that VBench prints.

    Raises:
        VbenchError: the process does not start, or answers something else than JSON.
        FileError: the log cannot be written.
    """
    text = json.dumps({**request, "variables": environment.process_variables()})
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        environment.weights.mkdir(parents=True, exist_ok=True)
        words = log.open("w", encoding="utf-8")
    except OSError as error:
        raise FileError(f"{log}: cannot write here: {error.strerror}") from error
    with words, as_file(files("pabtune.vbench") / "runner.py") as script:
        try:
            process = subprocess.Popen(
                [str(environment.python), "-I", str(script)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=words,
                text=True,
            )
        except OSError as error:
            raise VbenchError(
                f"{environment.python}: does not run: {error.strerror}; run: pabtune vbench setup"
            ) from error
        assert process.stdin is not None  # noqa: S101, for the type checker: both are pipes
        assert process.stdout is not None  # noqa: S101
        try:
            _send(process, text)
            for line in process.stdout:
                yield _parse(line, log)
            process.wait()
        finally:
            process.kill()
            process.wait()
            process.stdout.close()


def _send(process: subprocess.Popen[str], text: str) -> None:
    """Writes the request; a process that has already ended says why on its own."""
    assert process.stdin is not None  # noqa: S101
    try:
        process.stdin.write(text)
        process.stdin.close()
    except BrokenPipeError:
        pass


def _parse(line: str, log: Path) -> dict[str, Any]:
    try:
        answer = json.loads(line)
    except json.JSONDecodeError as error:
        raise VbenchError(f"VBench's process answered {line!r}, which is no JSON; see {log}") from error
    if not isinstance(answer, dict):
        raise VbenchError(f"VBench's process answered {line!r}, which is no object; see {log}")
    return answer


def last_line(log: Path) -> str:
    """The last words in a log."""
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "it printed nothing"
