"""Fidelity: how close a video is to the reference of the same prompt and seed. On raw frames, not through a codec.

Conventions of the PAB paper's evaluation: per frame, data range 1, PSNR over all channels and 100 dB for identical
frames; SSIM with an 11x11 Gaussian window (sigma 1.5), C1 = 0.01², C2 = 0.03², valid region only, per channel; means over
frames. torchmetrics' SSIM averages over reflected borders as well, which differs by 0.02 at 64 pixels.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import correlate1d

PSNR_OF_IDENTICAL_DB = 100.0
WINDOW = 11
SIGMA = 1.5


def psnr_db(video: NDArray[np.uint8], reference: NDArray[np.uint8]) -> float:
    """Peak signal-to-noise ratio in dB, mean over frames, of two videos (F, H, W, 3).

    Raises:
        ValueError: the shapes differ.
    """
    difference = _as_float(video, reference) / 255
    error = np.square(difference).mean(axis=(1, 2, 3))
    per_frame = np.where(error < 1e-10, PSNR_OF_IDENTICAL_DB, -10 * np.log10(np.maximum(error, 1e-10)))
    return float(per_frame.mean())


def ssim(video: NDArray[np.uint8], reference: NDArray[np.uint8]) -> float:
    """Structural similarity (Wang et al. 2004), mean over frames and channels, of two videos (F, H, W, 3).

    Raises:
        ValueError: the shapes differ, or a side is shorter than the window of 11 pixels.
    """
    _as_float(video, reference)
    if min(video.shape[1:3]) < WINDOW:
        raise ValueError(f"SSIM needs frames of at least {WINDOW}x{WINDOW} pixels, but got {video.shape[1:3]}")
    x, y = video.astype(float) / 255, reference.astype(float) / 255
    mean_x, mean_y = _blur(x), _blur(y)
    variance_x, variance_y = _blur(x * x) - mean_x**2, _blur(y * y) - mean_y**2
    covariance = _blur(x * y) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    similarity = ((2 * mean_x * mean_y + c1) * (2 * covariance + c2)) / (
        (mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2)
    )
    return float(similarity.mean())


def _as_float(video: NDArray[np.uint8], reference: NDArray[np.uint8]) -> NDArray[np.float64]:
    if video.shape != reference.shape:
        raise ValueError(f"videos must have the same shape, but got {video.shape} and {reference.shape}")
    return video.astype(float) - reference.astype(float)


def _blur(frames: NDArray[np.float64]) -> NDArray[np.float64]:
    """Gaussian window over rows and columns of (F, H, W, 3); the valid region."""
    offset = np.arange(WINDOW) - WINDOW // 2
    weights = np.exp(-(offset**2) / (2 * SIGMA**2))
    weights /= weights.sum()
    margin = WINDOW // 2
    blurred = correlate1d(correlate1d(frames, weights, axis=1), weights, axis=2)
    return blurred[:, margin:-margin, margin:-margin]
