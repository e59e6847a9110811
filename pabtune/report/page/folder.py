"""The files of pabtune in a folder, known by what they say they are. Knows their families, not what a page shows of them."""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from pabtune.records.comparisons import SCHEMA as COMPARISON
from pabtune.records.errors import FileError, PabtuneError
from pabtune.records.evaluations import SCHEMA as EVALUATION
from pabtune.records.files import MOST_BYTES, check_document, digest, parse_json
from pabtune.records.policies import Policy
from pabtune.records.profiles import Profile
from pabtune.records.trials import SCHEMA as SEARCH

T = TypeVar("T")

MOST_FILES = 20_000
"""A folder with more is not one that pabtune wrote into, such as a home folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry(Generic[T]):
    """What one file holds.

    Attributes:
        name: of the file, from the folder on, with slashes.
        value: its record.
    """

    name: str
    value: T

    @property
    def folder(self) -> str:
        """Of the file, from the folder on; empty = the folder itself."""
        return self.name.rpartition("/")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """All of a folder, each value once, in the order of the files' names.

    Attributes:
        path: of the folder.
        profiles: measurements.
        policies: with what their files say was measured.
        evaluations: documents of `pabtune evaluate`.
        searches: documents of `pabtune search`.
        comparisons: documents of `pabtune compare`.
        others: number of files of other kinds.
    """

    path: Path
    profiles: tuple[Entry[Profile], ...]
    policies: tuple[Entry[Policy], ...]
    evaluations: tuple[Entry[Mapping[str, Any]], ...]
    searches: tuple[Entry[Mapping[str, Any]], ...]
    comparisons: tuple[Entry[Mapping[str, Any]], ...]
    others: int

    @property
    def documents(self) -> tuple[Entry[Mapping[str, Any]], ...]:
        """All but profiles and policies."""
        return (*self.searches, *self.evaluations, *self.comparisons)


def read_folder(path: Path, page: Path | None = None) -> Folder:
    """Reads every file of pabtune in a folder and in those inside of it; hidden ones are left out.

    Args:
        path: the folder.
        page: a file that is not counted among those of other kinds: the page itself.

    Raises:
        FileError: there is no such folder, it holds nothing of pabtune or far too much, or a file of pabtune's is broken or of
            another version.
    """
    if not path.is_dir():
        what = "is a file; name its folder" if path.exists() else "there is no such folder"
        raise FileError(f"{path}: {what}")
    found: dict[str, dict[str, Entry[Any]]] = {family: {} for family in READERS}
    others = 0
    for file in _files(path):
        entry = _read(path, file)
        if entry is not None:
            family, value, key = entry
            found[family].setdefault(key, Entry(name=file.relative_to(path).as_posix(), value=value))
        elif file.suffix != ".safetensors" and (page is None or file.absolute() != page.absolute()):
            others += 1
    if not any(found.values()):
        raise FileError(
            f"{path}: holds nothing that pabtune measured; run `pabtune demo --out {path}`, or `pabtune profile`, `search`, "
            "`evaluate` and `compare` with --out in it"
        )
    return Folder(
        path=path,
        profiles=tuple(found["profile"].values()),
        policies=tuple(found["policy"].values()),
        evaluations=tuple(found["evaluation"].values()),
        searches=tuple(found["search"].values()),
        comparisons=tuple(found["comparison"].values()),
        others=others,
    )


def _files(path: Path) -> Iterator[Path]:
    """Files, by their names; folders that are links are not entered."""
    count = 0
    for place, folders, files in os.walk(path):
        folders[:] = sorted(each for each in folders if not each.startswith("."))
        for name in sorted(each for each in files if not each.startswith(".")):
            count += 1
            if count > MOST_FILES:
                raise FileError(f"{path}: more than {MOST_FILES:,} files; name the folder that pabtune wrote into")
            yield Path(place) / name


def _read(folder: Path, file: Path) -> tuple[str, Any, str] | None:
    """Family, value and checksum of a file of pabtune's; None = of another kind."""
    if file.suffix != ".json" or not file.is_file():
        return None
    try:
        if file.stat().st_size > MOST_BYTES:
            return None
        content = file.read_bytes()
    except OSError as error:
        raise FileError(f"{file}: cannot read: {error.strerror}") from error
    try:
        # A file that was cut off may have lost the line that says what it is, so that any broken one is told.
        document = parse_json(content.decode("utf-8-sig"), str(file), FileError)
    except UnicodeDecodeError as error:
        raise FileError(f"{file}: not a text file in UTF-8") from error
    schema = document.get("schema") if isinstance(document, dict) else None
    family = re.fullmatch(r"pabtune\.(\w+)/\d+", schema) if isinstance(schema, str) else None
    if family is None or family[1] not in READERS:
        return None
    try:
        value = READERS[family[1]](file, document)
    except PabtuneError as error:
        message = str(error)
        raise FileError(message if message.startswith(str(folder)) else f"{file}: {message}") from error
    return family[1], value, value.digest if isinstance(value, Policy | Profile) else digest(value)


def _document_reader(schema: str) -> Callable[[Path, Any], Any]:
    return lambda file, document: check_document(document, str(file), schema, FileError)


READERS: Mapping[str, Callable[[Path, Any], Any]] = {
    "profile": lambda file, _: Profile.load(file),
    "policy": lambda file, _: Policy.load(file),
    "evaluation": _document_reader(EVALUATION),
    "search": _document_reader(SEARCH),
    "comparison": _document_reader(COMPARISON),
}
"""How each family is read that a page is made of."""
