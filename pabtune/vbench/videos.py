"""The videos of a folder with their prompts."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pabtune.records.errors import FileError, VbenchError
from pabtune.records.prompts import Prompt
from pabtune.vbench.weights import sha256_of

SUFFIX = ".mp4"
"""The only kind of file that all dimensions read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Video:
    """A video file, the checksum of its content (of the file, or of the frames that it holds), and its prompt."""

    path: Path
    sha256: str
    prompt: str


def find_videos(folder: Path, prompts: Sequence[Prompt]) -> list[Video]:
    """Pairs each video of a folder with its prompt: by number, or by VBench's names.

    `NAME-000.mp4`, `NAME-001.mp4`, … belong to the prompts in their order, as `pabtune generate` writes them; `PROMPT-0.mp4`,
    `PROMPT-1.mp4`, … all belong to PROMPT, as VBench wants them. A single video belongs to a single prompt whatever its name.
    Hidden files are left alone.

    Raises:
        VbenchError: the folder is missing or empty, holds something else than videos, or prompts and videos do not pair.
        FileError: a video cannot be read.
    """
    try:
        entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise VbenchError(f"{folder}: cannot read this folder of videos: {error.strerror}") from error
    strays = [path.name for path in entries if path.suffix != SUFFIX or not path.is_file()]
    if strays:
        raise VbenchError(f"{folder}: holds {_some(strays)}, which is no {SUFFIX} video; move it elsewhere")
    if not entries:
        raise VbenchError(
            f"{folder}: holds no {SUFFIX} videos; write some with: pabtune generate --out {folder}/v{SUFFIX}"
        )
    texts = _pair(entries, [prompt.prompt for prompt in prompts], folder)
    return [Video(path=path.resolve(), sha256=_digest(path), prompt=texts[path]) for path in entries]


def _pair(paths: Sequence[Path], prompts: Sequence[str], folder: Path) -> dict[Path, str]:
    """The prompt of each video."""
    if len(paths) == len(prompts) == 1:
        return {paths[0]: prompts[0]}
    names = {path: re.fullmatch(r"(.*)-(\d+)", path.stem, re.DOTALL) for path in paths}
    unnumbered = [path.name for path, name in names.items() if name is None]
    if unnumbered:
        raise VbenchError(
            f"{folder}: {_some(unnumbered)} has no number; videos are named NAME-000{SUFFIX}, NAME-001{SUFFIX}, … in the "
            f"order of the prompts, or PROMPT-0{SUFFIX}"
        )
    named = {path: name[1] for path, name in names.items() if name is not None}
    if set(named.values()) <= set(prompts):
        paired = named
    else:
        numbers = {path: int(name[2]) for path, name in names.items() if name is not None}
        if len(set(numbers.values())) < len(numbers):
            twice = sorted(path.name for path in paths if list(numbers.values()).count(numbers[path]) > 1)
            raise VbenchError(f"{folder}: {_some(twice)} share a number, so their prompts are not known")
        beyond = [path.name for path in paths if numbers[path] >= len(prompts)]
        if beyond:
            raise VbenchError(f"{folder}: {_some(beyond)} has no prompt, as there are {len(prompts)}, counted from 0")
        paired = {path: prompts[numbers[path]] for path in paths}
        missing = sorted(set(range(len(prompts))) - set(numbers.values()))
        if missing:
            raise VbenchError(
                f"{folder}: {len(missing)} of {len(prompts)} prompts have no video, the first is number {missing[0]}"
            )
    silent = [prompt for prompt in prompts if prompt not in set(paired.values())]
    if silent:
        raise VbenchError(
            f"{folder}: {len(silent)} of {len(prompts)} prompts have no video, the first is {silent[0]!r}"
        )
    return paired


def _digest(path: Path) -> str:
    if path.stat().st_size == 0:
        raise FileError(f"{path}: is empty")
    return sha256_of(path)


def _some(names: Sequence[str]) -> str:
    """The first of some names, and how many there are."""
    return names[0] if len(names) == 1 else f"{names[0]} (one of {len(names)})"
