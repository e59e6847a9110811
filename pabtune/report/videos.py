"""Video files and contact sheets."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import imageio.v3 as iio
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pabtune.quality.ffmpeg import call_ffmpeg, find_ffmpeg
from pabtune.records.errors import FileError, MeasureError
from pabtune.records.files import write_atomically

SUFFIXES = (".mp4", ".gif")
LEAST_SIDE = 192
"""Smaller videos are enlarged by whole factors, pixel by pixel, to at least this height, so that a person sees them."""


def check_video_path(path: Path) -> None:
    """Refuses a name that `save_video` could not write.

    Raises:
        FileError: the suffix is not one that can be written.
    """
    if path.suffix not in SUFFIXES:
        raise FileError(f"{path}: a video file must end in {' or '.join(SUFFIXES)}")


def save_video(path: Path, video: NDArray[np.uint8], frames_per_second: int) -> None:
    """Writes a video, (frames, height, width, 3), as MP4 (H.264) or GIF, by the file's suffix, atomically.

    Raises:
        FileError: the suffix is neither, or the place cannot be written to.
    """
    check_video_path(path)
    frames = enlarge(video)
    if path.suffix == ".gif":
        write_atomically(path, lambda partial: partial.write_bytes(encode_gif(frames, frames_per_second)))
        return
    write_atomically(
        path,
        lambda partial: iio.imwrite(
            partial, frames, fps=frames_per_second, codec="libx264", quality=9, macro_block_size=2, plugin="FFMPEG"
        ),
    )


def encode_gif(video: NDArray[np.uint8], frames_per_second: int) -> bytes:
    """An endless GIF of a video, (frames, height, width, 3)."""
    images = [Image.fromarray(frame) for frame in video]
    buffer = BytesIO()
    images[0].save(
        buffer, format="GIF", save_all=True, append_images=images[1:], duration=1000 // frames_per_second, loop=0
    )
    return buffer.getvalue()


def enlarge(video: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A small video, pixel by pixel, until it is high enough to look at."""
    factor = max(1, -(-LEAST_SIDE // video.shape[1]))
    return video.repeat(factor, axis=1).repeat(factor, axis=2)


def contact_sheet(videos: Sequence[NDArray[np.uint8]], factor: int = 3) -> NDArray[np.uint8]:
    """All frames of several videos in one picture, one row per video."""
    margin = 2
    rows = []
    for video in videos:
        frames = [np.pad(frame, ((0, margin), (0, margin), (0, 0)), constant_values=255) for frame in video]
        rows.append(np.concatenate(frames, axis=1))
    return np.concatenate(rows, axis=0).repeat(factor, axis=0).repeat(factor, axis=1)


def save_picture(path: Path, picture: NDArray[np.uint8]) -> None:
    """Writes a PNG, atomically.

    Raises:
        FileError: the place cannot be written to.
    """
    write_atomically(path, lambda partial: Image.fromarray(picture).save(partial, format="PNG"))


def first_frame(path: Path) -> tuple[bytes, int, int]:
    """The first frame of a video file as PNG, its width and its height.

    Raises:
        FileError: the file is no video that can be read.
    """
    words = ["-protocol_whitelist", "file", "-i", str(path.absolute())]
    try:
        frame = call_ffmpeg(
            find_ffmpeg(), [*words, "-frames:v", "1", "-f", "image2pipe", "-c:v", "png", "pipe:1"], b"", path.parent
        )
        with Image.open(BytesIO(frame)) as image:
            return frame, image.width, image.height
    except (MeasureError, OSError) as error:
        raise FileError("their files are no videos that can be read") from error


def is_image(path: str | Path) -> bool:
    """Whether a file is a picture that can be read."""
    try:
        with Image.open(path) as image:
            image.verify()
    except Exception:  # noqa: BLE001, each format's reader fails in its own way
        return False
    return True
