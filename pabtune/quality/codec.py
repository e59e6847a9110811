"""A video as it comes out of an MP4 file: how the papers measure fidelity, which pabtune does only on demand.

The scripts of PAB (and TeaCache's copy of them) read MP4 files that imageio wrote without further options: H.264 with the
rate factor that x264 takes by itself, and colours at half the resolution (4:2:0). imageio documents a quality of 5 of 10 (a
rate factor of 25), but does not pass it on where it is not given. That bounds what can be measured: two videos 47 dB apart
are 32 dB apart in their files.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from pabtune.quality.ffmpeg import call_ffmpeg, find_ffmpeg, frames_input, scratch_folder
from pabtune.records.errors import MeasureError

RATE_FACTOR = 23
"""Of x264 where nothing else is said."""

FRAMES_PER_SECOND = 24
"""Of Open-Sora's videos in PAB's scripts."""

DESCRIPTION = f"H.264, rate factor {RATE_FACTOR}, 4:2:0, {FRAMES_PER_SECOND} frames per second"


def load_codec() -> Callable[[NDArray[np.uint8]], NDArray[np.uint8]]:
    """Encoding and decoding with the binary that is at hand.

    Raises:
        MeasureError: there is no ffmpeg.
    """
    return partial(_through_codec, find_ffmpeg())


def _through_codec(binary: str, video: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The video, (F, H, W, 3), encoded and decoded. An odd side is encoded with its last line twice.

    Raises:
        MeasureError: ffmpeg fails, or gives back other frames.
    """
    count, height, width = video.shape[:3]
    even = np.pad(video, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    encode = ["-an", "-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", str(RATE_FACTOR), "video.mp4"]
    decode = ["-i", "video.mp4", "-f", "rawvideo", "-pix_fmt", "rgb24", "pipe:1"]
    with scratch_folder() as folder:
        call_ffmpeg(binary, [*frames_input(even, FRAMES_PER_SECOND), *encode], even, folder)
        raw = call_ffmpeg(binary, decode, b"", folder)
    if len(raw) != even.size:
        raise MeasureError(f"{binary}: {count} frames were encoded, but {len(raw)} bytes came back, not {even.size}")
    return np.frombuffer(raw, np.uint8).reshape(even.shape)[:, :height, :width]
