import numpy as np
import pytest
import torch
from torchmetrics.functional.image import peak_signal_noise_ratio

from pabtune.quality.fidelity import psnr_db, ssim

RNG = np.random.default_rng(0)
VIDEO = RNG.integers(0, 255, (4, 24, 24, 3), dtype=np.uint8)
NOISY = np.clip(VIDEO.astype(int) + RNG.integers(-20, 20, VIDEO.shape), 0, 255).astype(np.uint8)


def test_psnr_is_torchmetrics() -> None:
    x, y = (torch.from_numpy(v).float() / 255 for v in (NOISY, VIDEO))
    expected = peak_signal_noise_ratio(x, y, data_range=1.0, dim=(1, 2, 3), reduction="elementwise_mean")
    assert psnr_db(NOISY, VIDEO) == pytest.approx(float(expected), abs=1e-4)
    assert psnr_db(VIDEO, VIDEO) == 100.0


def test_ssim_against_a_direct_count() -> None:
    """Every valid window of one channel by hand."""
    assert ssim(VIDEO, VIDEO) == pytest.approx(1.0)
    x, y = NOISY[0, :, :, 0].astype(float) / 255, VIDEO[0, :, :, 0].astype(float) / 255
    offset = np.arange(11) - 5
    kernel = np.exp(-(offset[:, None] ** 2 + offset[None] ** 2) / (2 * 1.5**2))
    kernel /= kernel.sum()
    values = []
    for row in range(14):
        for column in range(14):
            a, b = x[row : row + 11, column : column + 11], y[row : row + 11, column : column + 11]
            mean_a, mean_b = (kernel * a).sum(), (kernel * b).sum()
            var_a, var_b = (kernel * (a - mean_a) ** 2).sum(), (kernel * (b - mean_b) ** 2).sum()
            cov = (kernel * (a - mean_a) * (b - mean_b)).sum()
            luminance = (2 * mean_a * mean_b + 1e-4) / (mean_a**2 + mean_b**2 + 1e-4)
            values.append(luminance * (2 * cov + 9e-4) / (var_a + var_b + 9e-4))
    single = np.repeat(NOISY[:1, :, :, :1], 3, -1), np.repeat(VIDEO[:1, :, :, :1], 3, -1)
    assert ssim(*single) == pytest.approx(np.mean(values), abs=1e-9)


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="same shape"):
        psnr_db(VIDEO, VIDEO[:2])
    with pytest.raises(ValueError, match="at least 11x11"):
        ssim(VIDEO[:, :8], VIDEO[:, :8])
