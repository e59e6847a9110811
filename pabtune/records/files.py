"""Reading and writing of files: strict JSON, checked against a schema, written atomically."""

import fcntl
import hashlib
import json
import math
import os
import re
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

from pabtune.records.errors import FileError, PabtuneError, first_line

MOST_BYTES = 16 * 2**20
"""No file of JSON or of prompts is larger; those of profiles are well below 1 MiB."""

MOST_LEVELS = 64
"""Deepest nesting of JSON: far more than any of our files has, far less than what exhausts the stack."""

Upgrade = Callable[[Mapping[str, Any], str], dict[str, Any]]
"""Turns a document, whose file is named in messages, into one of the current schema."""


def digest(document: Any) -> str:
    """`sha256:` and the checksum of a JSON document, independent of the order of keys."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Lets `write` fill a temporary file beside `path`, then renames it: `path` is old or new, never half.

    Raises:
        FileError: the folder does not exist and cannot be made, or cannot be written to.
    """
    _check_replaceable(path)
    try:
        path = path.resolve() if path.is_symlink() else path  # what it points at is replaced, not the link
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem[:40]}-", suffix=path.suffix[:20])
        os.close(handle)
    except (OSError, ValueError) as error:
        raise FileError(f"{path}: cannot write here: {_reason(error)}") from error
    partial = Path(name)
    try:
        write(partial)
        partial.chmod(0o644)
        _flush(partial)
        partial.replace(path)
    except OSError as error:
        raise FileError(f"{path}: cannot write here: {_reason(error)}") from error
    finally:
        partial.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """Brings a file to the disk before its name is: after a power cut, it is whole or not there."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def holding_file(path: Path, part: str) -> Iterator[None]:
    """Lets one process at a time into the block of a part of some work; others wait. A process that dies lets go.

    Args:
        path: file that the processes share; it stays empty.
        part: names what is done in the block; other parts are not waited for.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        # A byte of the file for each part: no part leaves a file of its own behind.
        start = int(hashlib.sha256(part.encode()).hexdigest()[:15], 16)
        fcntl.lockf(file, fcntl.LOCK_EX, 1, start)
        yield


def check_writable(path: Path) -> None:
    """Refuses early, before long work, what `write_atomically` would refuse at its end.

    Raises:
        FileError: `path` is a folder or a device, its name is too long, or its folder cannot be written to.
    """
    _check_replaceable(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except (OSError, ValueError) as error:
        raise FileError(f"{path}: cannot write here: {_reason(error)}") from error


def as_file_name(text: str) -> str:
    """A text as the name of a file or folder: no separators, not too long."""
    return re.sub(r"[^\w-]", "_", text)[:60].encode()[:120].decode(errors="ignore")


def _check_replaceable(path: Path) -> None:
    """Refuses what is there and no file, and names that no file can have."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    except (OSError, ValueError) as error:
        raise FileError(f"{path}: cannot write here: {_reason(error)}") from error
    if stat.S_ISDIR(mode):
        raise FileError(f"{path}: is a folder; name a file")
    if not stat.S_ISREG(mode):
        raise FileError(f"{path}: is a device, which a file would take the place of; name a file")


def _reason(error: OSError | ValueError) -> str:
    """What the system says, without the name of the file."""
    return (error.strerror if isinstance(error, OSError) else None) or first_line(error)


def save_json(path: Path, document: Mapping[str, Any]) -> None:
    """Writes strict JSON with sorted keys, atomically.

    Raises:
        FileError: the place cannot be written to.
        ValueError: the document holds NaN or infinity.
    """
    text = json.dumps(document, sort_keys=True, indent=2, allow_nan=False) + "\n"
    write_atomically(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def read_text(path: Path, error: type[PabtuneError]) -> str:
    """The text of a file, in UTF-8, with or without a byte order mark.

    Raises:
        PabtuneError: (as `error`) the file is missing, larger than `MOST_BYTES`, or no text.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except (OSError, ValueError) as problem:
        raise error(f"{path}: cannot read: {_reason(problem)}") from problem
    if len(content) > MOST_BYTES:
        raise error(f"{path}: cannot read: larger than {MOST_BYTES // 2**20} MiB, which no file of pabtune is")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        raise error(f"{path}: not a text file in UTF-8") from problem


def parse_json(text: str, source: str, error: type[PabtuneError]) -> Any:
    """A value of strict JSON: numbers are finite, integers have 64 bits, text is Unicode, keys stand once, nothing is deep.

    Raises:
        PabtuneError: (as `error`) the text is none; `source` names it in the message.
    """
    try:
        document = json.loads(
            text, parse_constant=_refuse_constant, parse_int=_whole, parse_float=_finite, object_pairs_hook=_object
        )
    except RecursionError as problem:
        raise error(f"{source}: broken JSON: nested more than {MOST_LEVELS} deep") from problem
    except json.JSONDecodeError as problem:
        raise error(f"{source}: broken JSON in line {problem.lineno}: {problem.msg}") from problem
    except ValueError as problem:
        raise error(f"{source}: broken JSON: {problem}") from problem
    _check_plain(document, source, error)
    return document


def load_json(path: Path, schema: str, error: type[PabtuneError], upgrade: Upgrade | None = None) -> dict[str, Any]:
    """Reads a document of one of our schemas.

    Args:
        path: the file.
        schema: what its `schema` key must say, for example `pabtune.policy/1`.
        error: class of the errors to raise.
        upgrade: turns a document of an older schema into one of this.

    Raises:
        PabtuneError: (as `error`) the file is missing, is no JSON, is of another or a newer schema, or breaks its schema;
            the message names the file, the key, what was expected, and what came.
    """
    document = parse_json(read_text(path, error), str(path), error)
    return check_document(document, str(path), schema, error, upgrade)


def check_document(
    document: Any, source: str, schema: str, error: type[PabtuneError], upgrade: Upgrade | None = None
) -> dict[str, Any]:
    """A document of one of our schemas, checked: an integer that is written 1.0 is 1 in what is returned.

    Args:
        document: as JSON has it: of dictionaries, lists, text, numbers, booleans and None.
        source: names it in messages.
        schema: as for `load_json`.
        error: as for `load_json`.
        upgrade: as for `load_json`.

    Raises:
        PabtuneError: as `load_json`.
    """
    _check_plain(document, source, error)
    if upgrade is not None and isinstance(document, dict):
        document = upgrade(document, source)
    actual = document.get("schema") if isinstance(document, dict) else None
    if actual != schema:
        family, version = schema.split("/")
        if isinstance(actual, str) and actual.startswith(f"{family}/") and actual.removeprefix(f"{family}/").isdigit():
            hint = f"made by another version of pabtune; this one reads version {version}: install a matching pabtune"
        else:
            hint = f"this is not a {family} file"
        raise error(f"{source}: key `schema` must be {schema!r}, but is {_beginning(repr(actual))}: {hint}")
    rules = validator(schema)
    problem = next(rules.iter_errors(document), None)
    if problem is not None:
        key = problem.json_path.removeprefix("$").removeprefix(".") or "the document"
        instance = repr(problem.instance)
        raise error(f"{source}: {_beginning(key)}: {problem.message.replace(instance, _beginning(instance))}")
    try:
        checked: dict[str, Any] = _with_integers(document, rules.schema, rules.schema)
    except ValueError as large:
        raise error(f"{source}: {large}") from large
    return checked


def _with_integers(value: Any, schema: Mapping[str, Any], root: Mapping[str, Any]) -> Any:
    """The value with 1.0 as 1 wherever its schema says integer: to JSON Schema these are the same.

    Raises:
        ValueError: such a number has more than 64 bits.
    """
    if "$ref" in schema:
        schema = root["$defs"][schema["$ref"].removeprefix("#/$defs/")]
    if schema.get("type") == "integer":
        return _in_64_bits(int(value))
    if isinstance(value, dict):
        properties, others = schema.get("properties", {}), schema.get("additionalProperties")
        others = others if isinstance(others, dict) else {}
        return {key: _with_integers(each, properties.get(key, others), root) for key, each in value.items()}
    if isinstance(value, list) and "items" in schema:
        return [_with_integers(each, schema["items"], root) for each in value]
    return value


def _check_plain(document: Any, source: str, error: type[PabtuneError]) -> None:
    """Checks that a document is nothing but JSON, can be written as UTF-8, and is not deep: deep ones exhaust the stack."""
    level, levels = [document], 0
    while level:
        levels += 1
        if levels > MOST_LEVELS:
            raise error(f"{source}: broken JSON: nested more than {MOST_LEVELS} deep")
        level = [
            inner
            for each in level
            if isinstance(each, dict | list)
            for inner in (each.values() if isinstance(each, dict) else each)
        ]
    try:
        json.dumps(document, allow_nan=False, ensure_ascii=False).encode()
    except UnicodeEncodeError as problem:
        wrong = problem.object[problem.start].encode("unicode_escape").decode()
        raise error(f"{source}: broken JSON: {wrong} alone is no character") from problem
    except (TypeError, ValueError) as problem:
        raise error(f"{source}: not strict JSON: {problem}") from problem


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys stand once."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {_beginning(repr(next(key for key in keys if keys.count(key) > 1)))} stands twice")
    return found


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not allowed in strict JSON")


def _whole(digits: str) -> int:
    if len(digits) > 20:  # longer ones take long to read, and Python refuses the longest
        raise ValueError(f"the number {_beginning(digits, 24)} has more than 64 bits")
    return _in_64_bits(int(digits))


def _in_64_bits(number: int) -> int:
    if not -(2**63) <= number < 2**64:
        raise ValueError(f"the number {_beginning(str(number), 24)} has more than 64 bits")
    return number


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {_beginning(text, 24)} is too large")
    return number


def _beginning(text: str, longest: int = 80) -> str:
    return text if len(text) <= longest else f"{text[:longest]}…"


@cache
def validator(schema: str) -> Draft202012Validator:
    """The validator of one of our schemas, from the file beside this module."""
    family = schema.removeprefix("pabtune.").split("/")[0]
    text = (files("pabtune.records") / "schemas" / f"{family}.schema.json").read_text(encoding="utf-8")
    return Draft202012Validator(json.loads(text))
