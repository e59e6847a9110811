import pytest

from pabtune.records.errors import FileError, VbenchError
from pabtune.records.prompts import Prompt
from pabtune.vbench.videos import find_videos

PROMPTS = [Prompt(prompt="a red square"), Prompt(prompt="a blue cross")]


def put(folder, *names: str) -> None:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_text(name)


def paired(folder, prompts=PROMPTS) -> dict[str, str]:
    return {video.path.name: video.prompt for video in find_videos(folder, prompts)}


def test_numbered_videos_belong_to_the_prompts_in_their_order(tmp_path) -> None:
    put(tmp_path, "v-001.mp4", "v-000.mp4", ".v-002-x1.mp4", ".DS_Store")
    assert paired(tmp_path) == {"v-000.mp4": "a red square", "v-001.mp4": "a blue cross"}


def test_videos_named_by_prompt_may_be_several_per_prompt(tmp_path) -> None:
    put(tmp_path, "a red square-0.mp4", "a red square-1.mp4", "a blue cross-0.mp4")
    assert paired(tmp_path)["a red square-1.mp4"] == "a red square"
    assert paired(tmp_path)["a blue cross-0.mp4"] == "a blue cross"


def test_a_single_video_needs_no_number(tmp_path) -> None:
    put(tmp_path, "film.mp4")
    assert paired(tmp_path, PROMPTS[:1]) == {"film.mp4": "a red square"}


def test_equal_contents_have_equal_checksums(tmp_path) -> None:
    for index in (0, 1):
        (tmp_path / f"v-{index}.mp4").write_text("same")
    first, second = find_videos(tmp_path, PROMPTS)
    assert first.sha256 == second.sha256


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "holds no .mp4 videos"),
        (["v-000.mp4", "v-001.mp4", "notes.json"], "holds notes.json, which is no .mp4 video; move it elsewhere"),
        (["v-000.mp4", "v-001.avi", "w-001.gif"], r"holds v-001.avi \(one of 2\)"),
        (["v-000.mp4", "other.mp4"], "other.mp4 has no number"),
        (["v-000.mp4", "v-002.mp4"], "v-002.mp4 has no prompt, as there are 2"),
        (["v-000.mp4", "w-000.mp4"], "share a number"),
        (["v-001.mp4"], "1 of 2 prompts have no video, the first is number 0"),
        (["a red square-0.mp4"], "1 of 2 prompts have no video, the first is 'a blue cross'"),
    ],
)
def test_what_does_not_pair_is_refused(tmp_path, names, message) -> None:
    put(tmp_path, *names)
    with pytest.raises(VbenchError, match=message):
        find_videos(tmp_path, PROMPTS)


def test_a_missing_folder_and_an_empty_file_are_refused(tmp_path) -> None:
    with pytest.raises(VbenchError, match="cannot read this folder of videos: No such file"):
        find_videos(tmp_path / "none", PROMPTS)
    (tmp_path / "v-000.mp4").touch()
    with pytest.raises(FileError, match=r"v-000.mp4: is empty"):
        find_videos(tmp_path, PROMPTS[:1])
