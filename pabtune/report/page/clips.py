"""Videos that lie beside a document, as what a page can hold: data URIs with a still picture. Knows files, no page."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pabtune.records.errors import FileError
from pabtune.report.page.folder import Folder
from pabtune.report.page.results import number, text
from pabtune.report.videos import first_frame

MOST_PAIRS = 6
"""A page shows no more; the worst come first."""

MOST_BYTES, MOST_BYTES_OF_ALL = 3 * 2**20, 24 * 2**20
"""Of one video, and of all on a page."""

TYPES: Mapping[str, str] = {".mp4": "video/mp4", ".webm": "video/webm"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """A video and its first frame, each as data URI."""

    video: str
    kind: str
    poster: str
    width: int
    height: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipPair:
    """A prompt's video without and with a policy. None = not told."""

    policy: str
    prompt: str
    seed: int | None
    psnr_db: float | None
    drop: float | None
    file: str
    without: Clip
    under: Clip


@dataclass(frozen=True, slots=True, kw_only=True)
class Clips:
    """Pairs in the order of the page, and how many others there are, by reason."""

    pairs: tuple[ClipPair, ...]
    left_out: Mapping[str, int]


def clips_of(folder: Folder) -> Clips:
    """The worst pairs of all documents: fewest dB first."""
    rows = [
        (number(row, "psnr_db"), index, entry.name, row)
        for entry in (*folder.evaluations, *folder.searches)
        for index, row in enumerate(_rows(entry.value))
    ]
    rows.sort(key=lambda each: (each[0] is None, each[0] or 0.0, each[2], each[1]))
    pairs: list[ClipPair] = []
    left_out: dict[str, int] = {}
    room = MOST_BYTES_OF_ALL
    for psnr_db, _, file, row in rows:
        if len(pairs) == MOST_PAIRS:
            _note(left_out, f"for lack of room: a page shows {MOST_PAIRS}")
            continue
        place = (folder.path / file).parent
        try:
            without, under = (_load(folder.path, place / row[key], room) for key in ("without", "with"))
        except FileError as error:
            _note(left_out, str(error))
            continue
        room -= len(without.video) + len(under.video)
        pairs.append(
            ClipPair(
                policy=row["policy"], prompt=row["prompt"], seed=row.get("seed"), psnr_db=psnr_db,
                drop=number(row, "drop"), file=file, without=without, under=under,
            )
        )  # fmt: skip
    return Clips(pairs=tuple(pairs), left_out=left_out)


def _rows(document: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Rows that name two videos; in a search `videos` is how many it generated."""
    rows = document.get("worst") or document.get("videos")
    return [row for row in rows if text(row, "without") and text(row, "with")] if isinstance(rows, list) else []


def _note(left_out: dict[str, int], reason: str) -> None:
    left_out[reason] = left_out.get(reason, 0) + 1


def _load(folder: Path, path: Path, room: int) -> Clip:
    """A video as data URI.

    Raises:
        FileError: it is missing, outside of the folder, of another kind, too large, or no video.
    """
    kind = TYPES.get(path.suffix)
    if kind is None:
        raise FileError(f"their files are not {' or '.join(TYPES)}")
    try:
        is_inside, size = (
            path.resolve().is_relative_to(folder.resolve()),
            path.stat().st_size if path.is_file() else None,
        )
    except (OSError, ValueError, RuntimeError) as error:  # a name that no file can have, links in a circle
        raise FileError("their files are missing") from error
    if not is_inside:
        raise FileError("their files lie outside of this folder")
    if size is None:
        raise FileError("their files are missing")
    if size > MOST_BYTES:
        raise FileError(f"their files are larger than {MOST_BYTES // 2**20} MiB")
    if 4 * size > 3 * room:
        raise FileError(f"for lack of room: videos take at most {MOST_BYTES_OF_ALL // 2**20} MiB of a page")
    poster, width, height = first_frame(path)
    return Clip(
        video=_uri(kind, path.read_bytes()), kind=kind, poster=_uri("image/png", poster), width=width, height=height
    )


def _uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{b64encode(content).decode('ascii')}"
