"""Commands that make the files of a folder again: as they were noted, else as far as a file tells. Knows no numbers."""

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from pabtune.records.policies import Policy
from pabtune.records.profiles import Profile
from pabtune.report.page.folder import Entry, Folder
from pabtune.report.page.results import inside, text

OF_FILE = "its file does not say how it was made"

SECRETS = re.compile(r"(://[^/\s:@]*:)[^\s]+(@)")
"""Passwords in a URL."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A command, and the files that it made.

    Attributes:
        line: for a shell; empty where nothing is known.
        files: from the folder on.
        date: of the day on which it ran; None = not told.
        is_noted: whether the files hold the command; else it follows from what they say.
        remark: what to know before it is run again; may be empty.
        versions: of the packages that decide about the numbers.
    """

    line: str
    files: tuple[str, ...]
    date: str | None
    is_noted: bool
    remark: str
    versions: str


@dataclass(frozen=True, slots=True)
class _Draft:
    file: str
    words: tuple[str, ...]
    date: str | None
    is_noted: bool
    remark: str
    versions: str


def commands_of(folder: Folder) -> list[Command]:
    """A command for each file; files of the same command share it."""
    drafts = [
        *(_of_profile(entry) for entry in folder.profiles),
        *_of_policies(folder),
        *(_of_document(entry) for entry in folder.documents),
    ]
    groups: dict[tuple[str, ...], list[_Draft]] = {}
    for draft in drafts:
        groups.setdefault((*draft.words, "" if draft.words else draft.remark), []).append(draft)
    return [
        Command(
            line=as_line(group[0].words),
            files=tuple(draft.file for draft in group),
            date=group[0].date,
            is_noted=group[0].is_noted,
            remark=_remark(group[0]),
            versions=next((draft.versions for draft in group if draft.versions), ""),
        )
        for group in groups.values()
    ]


def as_line(words: Sequence[str]) -> str:
    """A command line that a shell reads as these words; of places on the machine where it ran the names stay."""
    return shlex.join(("pabtune", *map(shown_word, words))) if words else ""


def shown_word(word: str) -> str:
    """A word without passwords, and without the folders of an absolute path."""
    option, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
    for path in (PurePosixPath(value), PureWindowsPath(value)):
        if path.is_absolute() and path.name:
            value = path.name
    return SECRETS.sub(r"\1***\2", f"{option}{equals}{value}")


def _remark(draft: _Draft) -> str:
    is_short = any(shown_word(word) != word for word in draft.words)
    short = "folders of the machine where it ran, and passwords, are left out of the names" if is_short else ""
    return "; ".join(each for each in (draft.remark, short) if each)


def versions_in_words(document: Any) -> str:
    """Versions of pabtune, torch and diffusers, as far as they are told."""
    told = [(name, text(document, name)) for name in ("pabtune", "torch", "diffusers")]
    return ", ".join(f"{name} {version}" for name, version in told if version is not None)


def _noted(made_by: Any) -> tuple[tuple[str, ...], str | None]:
    """Words and day of a command that a file holds; no words where it holds none."""
    command = inside(made_by, "command")
    is_told = isinstance(command, list | tuple) and command and all(isinstance(word, str) for word in command)
    return (tuple(command) if is_told else (), text(made_by, "date"))


def _of_document(entry: Entry[Mapping[str, Any]]) -> _Draft:
    words, date = _noted(entry.value.get("made_by"))
    versions = versions_in_words(entry.value.get("versions") or entry.value.get("environment"))
    return _Draft(entry.name, words, date, bool(words), "" if words else OF_FILE, versions)


def _of_profile(entry: Entry[Profile]) -> _Draft:
    profile = entry.value
    words, date = _noted(profile.provenance.get("made_by"))
    versions = versions_in_words(profile.provenance)
    if words:
        return _Draft(entry.name, words, date, True, "", versions)
    if not profile.model:
        return _Draft(entry.name, (), None, False, "it was profiled from Python, not by a command", versions)
    settings, remark = profile.made_for.settings, "as far as the file tells"
    words = ("profile", profile.model, "--steps", str(profile.asked_steps))
    if profile.model != "shapes":
        words += ("--prompts", "PROMPTS.txt")
        remark += "; PROMPTS.txt stands for its prompts"
    for name, usual in (("dtype", "float32"), ("device", "cpu")):
        if settings.get(name, usual) != usual:
            words += (f"--{name}", str(settings[name]))
    arguments = settings.get("arguments", {})
    for name in sorted(arguments):
        words += ("--pipeline-arg", f"{name}={arguments[name]}")
    return _Draft(entry.name, (*words, "--out", entry.name), None, False, remark, versions)


def _of_policies(folder: Folder) -> Iterable[_Draft]:
    """Policies of one search share its command; a front has one, not one for each of its policies."""
    searches: dict[tuple[str, str], list[Entry[Policy]]] = {}
    for entry in folder.policies:
        provenance, versions = entry.value.provenance, versions_in_words(entry.value.provenance)
        words, date = _noted(provenance.get("made_by"))
        profile, budget = text(provenance, "profile"), text(entry.value.evidence, "budget")
        if words:
            yield _Draft(entry.name, words, date, True, "", versions)
        elif profile is None or budget is None:
            yield _Draft(entry.name, (), None, False, _origin(entry.value), versions)
        else:
            searches.setdefault((profile, budget), []).append(entry)
    for (digest, budget), entries in searches.items():
        winners = [entry for entry in entries if "trial" in entry.value.provenance]
        others = [entry for entry in entries if entry not in winners]
        for group in [[winner] for winner in winners[1:]] + [[*winners[:1], *others]]:
            words, remark = _search(folder, digest, budget, group)
            for entry in group:
                yield _Draft(entry.name, words, None, False, remark, versions_in_words(entry.value.provenance))


def _origin(policy: Policy) -> str:
    source, between = text(policy.provenance, "source"), policy.provenance.get("between")
    if source is not None:
        return f"published: {source}"
    if isinstance(between, list) and len(between) == 2:
        return f"made between {between[0]} and {between[1]}"
    return OF_FILE


def _search(folder: Folder, digest: str, budget: str, entries: Sequence[Entry[Policy]]) -> tuple[tuple[str, ...], str]:
    """The command of a search from what its policies say, and what it leaves open."""
    profiles = [
        entry.name
        for entry in folder.profiles
        if digest in (entry.value.digest, entry.value.provenance.get("upgraded_from"))
    ]
    remark = "as far as the files tell"
    if not profiles:
        remark += f"; PROFILE.json stands for the profile {digest[:19]}…, which is not in this folder"
    winners = [entry for entry in entries if "trial" in entry.value.provenance]
    fronts = sorted({entry.folder for entry in entries if entry not in winners})
    words = ["search", profiles[0] if profiles else "PROFILE.json", "--budget", budget]
    words += ["--out", winners[0].name if winners else "policy.json"]
    words += ["--front", fronts[0] or "front"] if fronts else []
    return tuple(words), remark
