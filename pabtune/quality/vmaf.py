"""VMAF: Netflix' fusion of detail and motion, by the libvmaf inside of the ffmpeg binary that imageio-ffmpeg ships.

Model `vmaf_v0.6.1` (https://github.com/Netflix/vmaf), 0..100, mean over frames; a video against itself has about 97 or
more, not always 100. It looks at brightness alone, so a colour of equal brightness costs nothing. The model was trained on
1080 lines seen from three screen heights; small frames are enlarged pixel by pixel, as `generate` saves them for people.
The factor belongs to the figure: values of frames that were enlarged by different factors cannot be compared.
"""

import json
from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from pabtune.quality.enlarging import enlarge, enlargement
from pabtune.quality.ffmpeg import call_ffmpeg, check_filter, find_ffmpeg, frames_input, scratch_folder
from pabtune.records.errors import MeasureError

LEAST_SIDE = 192
"""Shorter sides are enlarged to at least this many pixels, as in the video files that `generate` writes."""

FRAMES_PER_SECOND = 24
"""Any number will do: VMAF compares frame by frame."""

HALVES = (
    "format=yuv444p,split[l][r];[l]crop=iw/2:ih:0:0[video];[r]crop=iw/2:ih:iw/2:0[reference];"
    "[video][reference]libvmaf=model=version=vmaf_v0.6.1:log_fmt=json:log_path=vmaf.json"
)
"""One stream has the video in its left half and the reference in its right one: they cannot fall out of step."""


def load_vmaf() -> Callable[[NDArray[np.uint8], NDArray[np.uint8]], float]:
    """VMAF of a video and its reference, with the binary that is at hand.

    Raises:
        MeasureError: there is no ffmpeg, or it has no libvmaf.
    """
    binary = find_ffmpeg()
    check_filter(binary, "libvmaf")
    return partial(_vmaf, binary)


def _vmaf(binary: str, video: NDArray[np.uint8], reference: NDArray[np.uint8]) -> float:
    """VMAF, 0..100, of two videos (F, H, W, 3).

    Raises:
        ValueError: the shapes differ.
        MeasureError: ffmpeg fails, or its log is not one of these frames.
    """
    if video.shape != reference.shape:
        raise ValueError(f"videos must have the same shape, but got {video.shape} and {reference.shape}")
    factor = enlargement(*video.shape[1:3], LEAST_SIDE)
    both = np.concatenate([enlarge(video, factor), enlarge(reference, factor)], axis=2)
    with scratch_folder() as folder:
        arguments = [*frames_input(both, FRAMES_PER_SECOND), "-filter_complex", HALVES, "-f", "null", "-"]
        call_ffmpeg(binary, arguments, both, folder)
        try:
            log = json.loads((folder / "vmaf.json").read_text(encoding="utf-8"))
            frames = [float(frame["metrics"]["vmaf"]) for frame in log["frames"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise MeasureError(f"{binary}: libvmaf left no log that can be read: {type(error).__name__}") from error
    if len(frames) != len(video):
        raise MeasureError(f"{binary}: libvmaf measured {len(frames)} frames of {len(video)}")
    return float(np.mean(frames))
