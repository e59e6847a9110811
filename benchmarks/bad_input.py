"""Bad input of all kinds, at random from a seed (`bad_cases.py`), and how every command answers it.

With 0 where the input is still good, with 1 where the answer is no, else with exit code 2 and one line of at most 500
characters, without a traceback, soon. Records must refuse what their JSON Schema refuses.

    python benchmarks/bad_input.py --count 2000
"""

import io
import json
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from traceback import format_exc

import click
from bad_cases import Case, cases

from pabtune.cli.main import run
from pabtune.records.errors import PabtuneError
from pabtune.records.files import validator

LONGEST_LINE = 500
LIMIT_S = 60.0
"""A command that takes longer hangs."""

SECRET = "pass-word"


class Hang(BaseException):
    """The time is up. Nobody catches it who catches errors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a command said: its exit code, both streams, and what it raised."""

    code: int | None
    stdout: str = ""
    stderr: str = ""
    raised: str = ""


def answer(case: Case, folder: Path) -> Answer:
    """Tries a case in this process, with its files in a folder."""
    (folder / "one.txt").write_text("a red square\n")
    for name, content in case.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    words = [word.replace("{folder}", str(folder)) for word in case.words]
    streams = (
        io.TextIOWrapper(io.BytesIO(), "utf-8"),
        io.TextIOWrapper(io.BytesIO(), "utf-8", errors="backslashreplace"),
    )
    code, raised = None, ""
    sys.path.insert(0, str(folder))
    try:
        with chdir(folder), redirect_stdout(streams[0]), redirect_stderr(streams[1]), _ordinary_warnings(), _in_time():
            if case.record is not None:
                code = _try_record(case)
            else:
                run(words)
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except (Exception, Hang):  # noqa: BLE001, that is what is looked for
        raised = format_exc()
    finally:
        sys.path.remove(str(folder))
    texts = []
    for stream in streams:
        stream.flush()
        texts.append(stream.buffer.getvalue().decode())  # type: ignore[attr-defined]
    return Answer(code=code, stdout=texts[0], stderr=texts[1], raised=raised)


def fault_of(case: Case, given: Answer) -> str | None:
    """What is bad about an answer; None if nothing is."""
    lines = [line for line in given.stderr.splitlines() if line.strip()]
    if given.raised:
        return given.raised
    if any(word in given.stderr for word in ("Traceback", "RuntimeWarning")) or (
        SECRET in given.stderr and "--storage" in case.words
    ):
        return given.stderr[-3000:]
    if given.code == 2:
        good = len(lines) == 1 and lines[0].startswith("error: ") and len(lines[0]) <= LONGEST_LINE and not given.stdout
        return None if good else f"not one line: {given.stderr[:3000]}"
    if given.code == 3:
        return f"JSON Schema refuses what the record takes: {json.dumps(case.document)[:2000]}"
    return None if given.code in (0, 1) else f"exit code {given.code}"


def _try_record(case: Case) -> int:
    """2 if the record refuses the document; else 0, or 3 if its schema does not allow it."""
    assert case.record is not None
    try:
        case.record(case.document)
    except PabtuneError as error:
        click.echo(f"error: {error}", err=True)
        return 2
    return 0 if validator(case.schema).is_valid(case.document) else 3


@contextmanager
def _ordinary_warnings() -> Iterator[None]:
    """What Python shows of warnings where nobody asks for more."""
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        for category in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
            warnings.simplefilter("ignore", category)
        yield


@contextmanager
def _in_time() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise Hang(f"takes more than {LIMIT_S} s")

    handler, (left, interval) = signal.signal(signal.SIGALRM, stop), signal.setitimer(signal.ITIMER_REAL, LIMIT_S)
    try:
        yield
    finally:
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, left, interval)


def find_faults(seed: int, count: int) -> tuple[list[tuple[Case, str]], Counter[str]]:
    """Tries cases; returns those that were answered badly, and how many of each kind ended with which code."""
    faults, codes = [], Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        for index, case in enumerate(cases(seed, count)):
            place = Path(folder) / str(index)
            place.mkdir()
            given = answer(case, place)
            codes[f"{case.kind.split()[0]}: {given.code}"] += 1
            fault = fault_of(case, given)
            if fault is not None:
                faults.append((case, fault))
    return faults, codes


@click.command()
@click.option("--seed", default=0, show_default=True)
@click.option("--count", default=2000, show_default=True, help="Cases to try.")
def command(seed: int, count: int) -> None:
    began = time.monotonic()
    faults, codes = find_faults(seed, count)
    for case, fault in faults:
        click.echo(f"{case.kind}: {[word[:200] for word in case.words]}\n{fault[:4000]}\n", err=True)
    document = {
        "cases": count,
        "badly_answered": len(faults),
        "seconds": round(time.monotonic() - began, 1),
        "answers": dict(sorted(codes.items())),
    }
    click.echo(json.dumps(document, indent=2))
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    command()
