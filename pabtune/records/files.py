"""Reading and writing of files: strict JSON, checked against a schema, written atomically."""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from pabtune.records.errors import FileError, PabtuneError

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
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
        os.close(handle)
    except OSError as error:
        raise FileError(f"{path}: cannot write here: {error.strerror}") from error
    partial = Path(name)
    try:
        write(partial)
        partial.chmod(0o644)
        partial.replace(path)
    except OSError as error:
        raise FileError(f"{path}: cannot write here: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)


def check_writable(path: Path) -> None:
    """Refuses early, before long work, what `write_atomically` would refuse at its end.

    Raises:
        FileError: `path` is a folder, or its folder cannot be written to.
    """
    if path.is_dir():
        raise FileError(f"{path}: is a folder; name a file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise FileError(f"{path}: cannot write here: {error.strerror}") from error


def save_json(path: Path, document: Mapping[str, Any]) -> None:
    """Writes strict JSON with sorted keys, atomically.

    Raises:
        FileError: the place cannot be written to.
        ValueError: the document holds NaN or infinity.
    """
    text = json.dumps(document, sort_keys=True, indent=2, allow_nan=False) + "\n"
    write_atomically(path, lambda partial: partial.write_text(text, encoding="utf-8"))


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

    def refuse_constant(name: str) -> None:
        raise ValueError(f"{name} is not allowed in strict JSON")

    try:
        document = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse_constant)
    except OSError as problem:
        raise error(f"{path}: cannot read: {problem.strerror}") from problem
    except UnicodeDecodeError as problem:
        raise error(f"{path}: not a text file, so no JSON") from problem
    except json.JSONDecodeError as problem:
        raise error(f"{path}: broken JSON in line {problem.lineno}: {problem.msg}") from problem
    except ValueError as problem:
        raise error(f"{path}: broken JSON: {problem}") from problem
    if upgrade is not None and isinstance(document, dict):
        document = upgrade(document, str(path))
    check_document(document, str(path), schema, error)
    checked: dict[str, Any] = document
    return checked


def check_document(document: Any, source: str, schema: str, error: type[PabtuneError]) -> None:
    """Checks a document against one of our schemas; `source` names it in messages. Raises as `load_json` does."""
    actual = document.get("schema") if isinstance(document, dict) else None
    if actual != schema:
        family, version = schema.split("/")
        if isinstance(actual, str) and actual.startswith(f"{family}/") and actual.removeprefix(f"{family}/").isdigit():
            hint = f"made by another version of pabtune; this one reads version {version}: install a matching pabtune"
        else:
            hint = f"this is not a {family} file"
        raise error(f"{source}: key `schema` must be {schema!r}, but is {actual!r}: {hint}")
    problem = best_match(validator(schema).iter_errors(document))
    if problem is not None:
        key = problem.json_path.removeprefix("$").removeprefix(".") or "the document"
        raise error(f"{source}: {key}: {problem.message}")


@cache
def validator(schema: str) -> Draft202012Validator:
    """The validator of one of our schemas, from the file beside this module."""
    family = schema.removeprefix("pabtune.").split("/")[0]
    text = (files("pabtune.records") / "schemas" / f"{family}.schema.json").read_text(encoding="utf-8")
    return Draft202012Validator(json.loads(text))
