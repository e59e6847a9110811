import hashlib
import zipfile
from dataclasses import replace

import pytest

from pabtune.records.errors import VbenchError
from pabtune.vbench.dimensions import DIMENSIONS, FOR_ANY_PROMPT
from pabtune.vbench.weights import WEIGHT_FILES, WeightFile, download, problem_of

SHA256 = hashlib.sha256(b"weights").hexdigest()


def served(tmp_path, content: bytes = b"weights", **fields) -> WeightFile:
    """A weight file at a URL that needs no network."""
    source = tmp_path / "source.pth"
    source.write_bytes(content)
    return WeightFile(name="net/w.pth", url=source.as_uri(), **fields)


def test_every_file_is_needed_by_a_dimension_and_every_need_is_a_file() -> None:
    needed = {name for dimension in DIMENSIONS.values() for name in dimension.files}
    assert needed == set(WEIGHT_FILES)
    assert not DIMENSIONS["temporal_flickering"].files
    assert len(DIMENSIONS) == 16
    assert len(FOR_ANY_PROMPT) == 9


def test_a_download_is_there_whole_and_checked(tmp_path) -> None:
    file = served(tmp_path, sha256=SHA256)
    assert problem_of(file, tmp_path / "weights") == "is missing"
    download(file, tmp_path / "weights")
    assert (tmp_path / "weights" / "net" / "w.pth").read_bytes() == b"weights"
    assert problem_of(file, tmp_path / "weights") is None
    assert [path.name for path in (tmp_path / "weights" / "net").iterdir()] == ["w.pth"]


def test_a_member_of_an_archive_is_taken_out(tmp_path) -> None:
    with zipfile.ZipFile(tmp_path / "models.zip", "w") as archive:
        archive.writestr("models/things.pth", b"weights")
    file = WeightFile(
        name="raft/things.pth", url=(tmp_path / "models.zip").as_uri(), member="models/things.pth", sha256=SHA256
    )
    download(file, tmp_path)
    assert (tmp_path / "raft" / "things.pth").read_bytes() == b"weights"
    with pytest.raises(VbenchError, match="no ZIP archive with models/other.pth"):
        download(replace(file, member="models/other.pth"), tmp_path)


def test_another_content_is_refused_and_leaves_nothing(tmp_path) -> None:
    file = served(tmp_path, b"an error page", sha256=SHA256)
    with pytest.raises(VbenchError, match=f"but must have {SHA256}"):
        download(file, tmp_path / "weights")
    assert not list((tmp_path / "weights" / "net").iterdir())


def test_what_cannot_be_reached_is_named(tmp_path) -> None:
    file = WeightFile(name="w.pth", url=(tmp_path / "none").as_uri())
    with pytest.raises(VbenchError, match=r"none: cannot be downloaded: "):
        download(file, tmp_path)


@pytest.mark.parametrize(
    ("published", "locked", "fits"),
    [("", "", True), (SHA256, "", True), (SHA256[:8], "", True), ("0" * 64, "", False), ("", "0" * 64, False),
     (SHA256[:8], SHA256, True), ("", SHA256, True)],
)  # fmt: skip
def test_a_file_must_have_the_published_and_the_locked_checksum(tmp_path, published, locked, fits) -> None:
    (tmp_path / "w.pth").write_bytes(b"weights")
    problem = problem_of(WeightFile(name="w.pth", url="", sha256=published), tmp_path, locked)
    assert (problem is None) == fits
    if problem is not None:
        assert f"another checksum, {SHA256[:12]}…, than the one " in problem
        assert ("published, 000000000000…" if published else "that lock.json has of it, 000000000000…") in problem
