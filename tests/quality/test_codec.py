import imageio.v3 as iio
import numpy as np
import pytest

from pabtune.quality.codec import FRAMES_PER_SECOND, load_codec
from pabtune.quality.fidelity import psnr_db

RNG = np.random.default_rng(0)
SMOOTH = np.repeat(np.repeat(RNG.integers(0, 255, (6, 8, 12, 3), dtype=np.uint8), 8, axis=1), 8, axis=2)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # imageio leaves pipes open
def test_it_is_what_imageio_writes_and_reads_with_its_defaults(tmp_path) -> None:
    """The way of PAB's scripts, frame by frame and byte by byte."""
    iio.imwrite(tmp_path / "video.mp4", SMOOTH, fps=FRAMES_PER_SECOND, plugin="FFMPEG")
    assert (load_codec()(SMOOTH) == iio.imread(tmp_path / "video.mp4", plugin="FFMPEG")).all()


@pytest.mark.parametrize("shape", [(8, 24, 24), (1, 33, 47)])
def test_any_size_comes_back_and_detail_is_lost(shape) -> None:
    video = RNG.integers(0, 255, (*shape, 3), dtype=np.uint8)
    decoded = load_codec()(video)
    assert decoded.shape == video.shape
    assert psnr_db(decoded, video) < 40


def test_equal_videos_stay_equal_and_a_small_difference_grows() -> None:
    """The papers' PSNRs are bounded by the codec."""
    codec = load_codec()
    other = np.clip(SMOOTH + RNG.normal(0, 1, SMOOTH.shape), 0, 255).astype(np.uint8)
    assert psnr_db(codec(SMOOTH), codec(SMOOTH)) == 100.0
    assert psnr_db(codec(other), codec(SMOOTH)) < psnr_db(other, SMOOTH)
