"""Enlarging of small videos, for measures whose models were made for larger frames."""

import numpy as np
from numpy.typing import NDArray


def enlargement(height: int, width: int, least_side: int) -> int:
    """Smallest whole factor that brings the shorter side of a frame to at least `least_side` pixels."""
    return max(1, -(-least_side // min(height, width)))


def enlarge(video: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    """A video, (frames, height, width, 3), enlarged by a whole factor, each pixel to a square of equal pixels."""
    return video.repeat(factor, axis=1).repeat(factor, axis=2)
