"""The process inside of VBench's environment: one request to `runner.py`, its answers line by line."""

import json
import os
import signal
import subprocess
import threading
from collections.abc import Generator, Mapping
from contextlib import suppress
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from pabtune.records.errors import FileError, VbenchError
from pabtune.vbench.environment import Environment


def answers(
    environment: Environment, request: Mapping[str, Any], log: Path, timeout_minutes: float | None = None
) -> Generator[dict[str, Any]]:
    """Starts the runner with a request; its answers, each as soon as it comes. It ends when the iterator is closed.

    Its standard input stays open as long as this process lives; when that ends, however it does, the runner ends itself.
    A runner that dies ends the answers early: who asks knows which are missing. One that takes too long is killed with all it
    started, and the last answer says so: `{"failed": text}`.

    Args:
        environment: which.
        request: as `runner.py` describes it; `variables` are added.
        log: gets all that VBench prints.
        timeout_minutes: after which the runner is killed; None = it may take any time.

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
                start_new_session=True,  # so that what it starts is killed with it
            )
        except OSError as error:
            raise VbenchError(
                f"{environment.python}: does not run: {error.strerror}; run: pabtune vbench setup"
            ) from error
        assert process.stdin is not None  # noqa: S101, for the type checker: both are pipes
        assert process.stdout is not None  # noqa: S101
        has_ended = threading.Event()
        watchdog = _kill_after(process, has_ended, timeout_minutes)
        try:
            _send(process, text)
            for line in process.stdout:
                yield _parse(line, log)
            if watchdog is not None and watchdog.is_late:
                yield {
                    "failed": f"VBench's process had not ended after {timeout_minutes:g} minutes and was killed; allow it "
                    "more with --timeout, or run the same command again"
                }
            process.wait()
        finally:
            has_ended.set()
            if watchdog is not None:
                watchdog.join()
            _kill_all(process)
            process.wait()
            process.stdout.close()
            with suppress(BrokenPipeError):
                process.stdin.close()


class _Watchdog(threading.Thread):
    """Kills a process, and all that it started, that has not ended in time."""

    def __init__(self, process: subprocess.Popen[str], has_ended: threading.Event, seconds: float) -> None:
        super().__init__(daemon=True)
        self._process, self._has_ended, self._seconds = process, has_ended, seconds
        self.is_late = False

    def run(self) -> None:
        if not self._has_ended.wait(self._seconds):
            self.is_late = True
            _kill_all(self._process)


def _kill_after(process: subprocess.Popen[str], has_ended: threading.Event, minutes: float | None) -> _Watchdog | None:
    """Starts a watchdog; None where there is no limit."""
    if minutes is None:
        return None
    watchdog = _Watchdog(process, has_ended, minutes * 60)
    watchdog.start()
    return watchdog


def _kill_all(process: subprocess.Popen[str]) -> None:
    """Kills the process and what it started, which may hold its pipes open."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _send(process: subprocess.Popen[str], text: str) -> None:
    """Writes the request; a process that has already ended says why on its own."""
    assert process.stdin is not None  # noqa: S101
    with suppress(BrokenPipeError):
        process.stdin.write(text + "\n")
        process.stdin.flush()


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
