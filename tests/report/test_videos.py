from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
from PIL import Image

from pabtune.records.errors import FileError
from pabtune.report.videos import LEAST_SIDE, contact_sheet, enlarge, is_image, save_picture, save_video

VIDEO = np.zeros((8, 24, 24, 3), np.uint8)
VIDEO[:, :12] = (250, 20, 20)
VIDEO[np.arange(8), 20, 2 * np.arange(8)] = 255


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # imageio leaves its reader open
@pytest.mark.parametrize("suffix", [".mp4", ".gif"])
def test_files_hold_the_frames(tmp_path: Path, suffix: str) -> None:
    save_video(tmp_path / f"v{suffix}", VIDEO, 8)
    frames = iio.imread(tmp_path / f"v{suffix}", **({"plugin": "FFMPEG"} if suffix == ".mp4" else {"mode": "RGB"}))
    assert frames.shape == (8, LEAST_SIDE, LEAST_SIDE, 3)
    assert abs(frames[0, 40, 40].astype(int) - (250, 20, 20)).max() < 25
    assert frames[0, 150, 40].max() < 25
    assert len(list(tmp_path.iterdir())) == 1
    if suffix == ".mp4":
        assert iio.immeta(tmp_path / "v.mp4", plugin="FFMPEG")["fps"] == 8
    else:
        with Image.open(tmp_path / "v.gif") as picture:
            assert picture.info["duration"] == 120  # a GIF counts hundredths of a second


def test_small_videos_are_enlarged_by_whole_factors() -> None:
    assert enlarge(VIDEO).shape == (8, 192, 192, 3)
    assert enlarge(np.zeros((2, 480, 640, 3), np.uint8)).shape == (2, 480, 640, 3)


def test_other_suffixes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="must end in .mp4 or .gif"):
        save_video(tmp_path / "v.avi", VIDEO, 8)


def test_contact_sheets_show_every_frame(tmp_path: Path) -> None:
    sheet = contact_sheet([VIDEO, VIDEO], factor=1)
    assert sheet.shape == (2 * 26, 8 * 26, 3)
    save_picture(tmp_path / "s.png", sheet)
    assert (iio.imread(tmp_path / "s.png") == sheet).all()


def test_a_picture_is_told_from_other_files(tmp_path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "real.png")
    whole = (tmp_path / "real.png").read_bytes()
    (tmp_path / "torn.png").write_bytes(whole[:20])
    (tmp_path / "text.png").write_text("no picture")
    assert is_image(tmp_path / "real.png")
    assert not is_image(tmp_path / "torn.png")
    assert not is_image(tmp_path / "text.png")
    assert not is_image(tmp_path / "missing.png")
