import numpy as np
import pytest

from pabtune.models.shapes.world import Scene, render
from pabtune.quality import vmaf
from pabtune.quality.ffmpeg import find_ffmpeg
from pabtune.quality.vmaf import load_vmaf
from pabtune.records.errors import MeasureError

SCENE = Scene(shape="cross", color="yellow", size="large", motion="left", speed="fast", background="striped")
VIDEO = render(SCENE, np.random.default_rng(0))


def noisy(amount: float) -> np.ndarray:
    noise = np.random.default_rng(1).normal(0, amount, VIDEO.shape)
    return np.clip(VIDEO + noise, 0, 255).astype(np.uint8)


def test_a_video_is_closest_to_itself_and_noise_costs() -> None:
    measure = load_vmaf()
    values = [measure(video, VIDEO) for video in (VIDEO, noisy(4), noisy(10), noisy(30))]
    assert values[0] > 97
    assert all(before > after + 5 for before, after in zip(values, values[1:], strict=False)), values


def test_frames_are_compared_one_by_one_and_in_their_order() -> None:
    """The mean over frames: with half of the frames damaged, half is lost, whatever is behind."""
    measure = load_vmaf()
    still = np.repeat(VIDEO[:1], 8, axis=0)
    half = np.concatenate([still[:4], 255 - still[4:]])
    assert measure(half, still) == pytest.approx(measure(still, still) / 2, rel=0.15)
    assert measure(VIDEO[::-1], VIDEO) < 60


def test_odd_sizes_and_single_frames_are_measured() -> None:
    measure, one = load_vmaf(), np.random.default_rng(0).integers(0, 255, (1, 33, 47, 3), dtype=np.uint8)
    assert measure(one, one) > 97


def test_what_cannot_be_measured_is_refused(monkeypatch, tmp_path) -> None:
    with pytest.raises(ValueError, match="same shape"):
        load_vmaf()(VIDEO, VIDEO[:4])
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(tmp_path / "none"))
    with pytest.raises(MeasureError, match="none: cannot be run: No such file"):
        load_vmaf()
    bare = tmp_path / "bare"
    bare.write_text("#!/bin/sh\necho ' .. psnr   VV->V'\n")
    bare.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(bare))
    with pytest.raises(MeasureError, match="bare: this ffmpeg has no filter 'libvmaf'"):
        load_vmaf()


def test_what_ffmpeg_says_when_it_fails_is_said(monkeypatch) -> None:
    measure = load_vmaf()
    monkeypatch.setattr(vmaf, "HALVES", "nonsense")
    with pytest.raises(MeasureError, match="ffmpeg ended with .* and said: .*nonsense") as failed:
        measure(VIDEO, VIDEO)
    assert find_ffmpeg() in str(failed.value)
