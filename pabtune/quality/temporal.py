"""The error of temporal differences: flicker and wrong motion against the reference, which frame by frame measures miss.

Of two videos V and R, the mean of |(V[t+1] - V[t]) - (R[t+1] - R[t])| over pixels, channels and times. What is wrong in all
frames alike, a shifted colour or a blurred background, costs nothing; what changes from frame to frame and should not, or
does not and should, costs what it changes by.
"""

import numpy as np
from numpy.typing import NDArray

from pabtune.records.errors import MeasureError


def temporal_error(video: NDArray[np.uint8], reference: NDArray[np.uint8]) -> float:
    """Error of temporal differences of two videos (F, H, W, 3), in levels of 255; 0 = changes as the reference does.

    Raises:
        ValueError: the shapes differ.
        MeasureError: there is a single frame.
    """
    if video.shape != reference.shape:
        raise ValueError(f"videos must have the same shape, but got {video.shape} and {reference.shape}")
    if len(video) < 2:
        raise MeasureError("the error of temporal differences needs videos of at least 2 frames, but got 1")
    return float(abs(np.diff(video.astype(float) - reference.astype(float), axis=0)).mean())
