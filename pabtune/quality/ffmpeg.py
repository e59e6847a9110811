"""The ffmpeg binary that imageio-ffmpeg ships: raw frames in, bytes out."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from numpy.typing import NDArray

from pabtune.records.errors import MeasureError, one_line

QUIET = ("-hide_banner", "-loglevel", "error", "-nostdin", "-y")


def find_ffmpeg() -> str:
    """Path of the binary.

    Raises:
        MeasureError: there is none.
    """
    try:
        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except RuntimeError as error:
        raise MeasureError(
            "no ffmpeg binary was found; install it with: pip install --force-reinstall imageio-ffmpeg"
        ) from error


def check_filter(binary: str, name: str) -> None:
    """Refuses a binary that lacks a filter.

    Raises:
        MeasureError: it lacks the filter, or does not run.
    """
    listed = _run([binary, "-hide_banner", "-filters"], b"", Path()).decode(errors="replace")
    if name not in {word for line in listed.splitlines() for word in line.split()[1:2]}:
        raise MeasureError(
            f"{binary}: this ffmpeg has no filter {name!r}; the one that imageio-ffmpeg ships for Linux has: "
            f"unset IMAGEIO_FFMPEG_EXE, or pip install --upgrade imageio-ffmpeg"
        )


def frames_input(video: NDArray[np.uint8], frames_per_second: int) -> list[str]:
    """Arguments that tell ffmpeg to read a video's raw frames, (frames, height, width, 3), from its standard input."""
    height, width = video.shape[1:3]
    return [
        "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(frames_per_second), "-i", "pipe:0",
    ]  # fmt: skip


def call_ffmpeg(binary: str, arguments: Sequence[str], frames: NDArray[np.uint8] | bytes, folder: Path) -> bytes:
    """Standard output of one call, which gets bytes on its standard input and runs in a folder.

    Raises:
        MeasureError: it cannot be started, or fails; the message has what ffmpeg said.
    """
    return _run([binary, *QUIET, *arguments], frames if isinstance(frames, bytes) else frames.tobytes(), folder)


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder for the files of one call, which is removed behind it.

    Raises:
        MeasureError: none can be made.
    """
    try:
        folder = tempfile.mkdtemp(prefix="pabtune-ffmpeg-")
    except OSError as error:
        raise MeasureError(f"no folder for temporary files can be made: {error.strerror}") from error
    try:
        yield Path(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(command: Sequence[str], frames: bytes, folder: Path) -> bytes:
    try:
        done = subprocess.run(command, input=frames, capture_output=True, check=False, cwd=folder)
    except OSError as error:
        raise MeasureError(f"{command[0]}: cannot be run: {error.strerror}") from error
    if done.returncode:
        said = one_line(done.stderr.decode(errors="replace"), 240) or "nothing"
        raise MeasureError(f"{command[0]}: ffmpeg ended with {done.returncode} and said: {said}")
    return done.stdout
