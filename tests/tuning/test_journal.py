"""The journal file of studies: half lines of writers that died, and full disks."""

import json
import subprocess
import sys
import textwrap

import pytest

from pabtune.records.errors import StudyError
from pabtune.tuning.journal import Journal
from pabtune.tuning.space import Space
from pabtune.tuning.study import SharedStudy
from tests.records.test_profiles import make_profile

ENTRY = {"op_code": 0, "text": "x" * 40}


def test_a_half_line_is_cut_where_the_file_is_opened(tmp_path) -> None:
    path = tmp_path / "study.journal"
    Journal(str(path)).append_logs([ENTRY])
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:20])
    opened = Journal(str(path))
    assert path.read_bytes() == whole
    assert list(opened.read_logs(0)) == [ENTRY]


def test_a_half_line_of_a_writer_that_died_meanwhile_is_cut_before_the_next_entry(tmp_path) -> None:
    """What came next was glued to it, and nobody could read the file again."""
    path = tmp_path / "study.journal"
    opened = Journal(str(path))
    opened.append_logs([ENTRY])
    with path.open("ab") as file:
        file.write(b'{"op_code": 1, "te')
    opened.append_logs([ENTRY])
    assert [json.loads(line) for line in path.read_text().splitlines()] == [ENTRY, ENTRY]
    assert list(Journal(str(path)).read_logs(0)) == [ENTRY, ENTRY]


def test_a_full_disk_is_told_in_one_line_and_loses_nothing(tmp_path) -> None:
    """A limit on the size of files, in a process of its own, stands for the full disk."""
    path = tmp_path / "study.journal"
    study = SharedStudy(str(path), "first", Space(make_profile(12)), "p")
    study.note("kept", 1)
    program = f"""
        import resource, signal
        from pathlib import Path
        from pabtune.records.errors import StudyError
        from pabtune.tuning.space import Space
        from pabtune.tuning.study import SharedStudy
        from tests.records.test_profiles import make_profile
        study = SharedStudy({str(path)!r}, "first", Space(make_profile(12)), "p")
        size = Path({str(path)!r}).stat().st_size
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 30, size + 30))
        try:
            study.note("long", "y" * 200)
        except StudyError as error:
            print(error)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=120, check=True
    )
    assert "cannot write the storage" in done.stdout
    assert "File too large" in done.stdout
    again = SharedStudy(str(path), "first", Space(make_profile(12)), "p")
    again.note("more", 2)
    notes = SharedStudy(str(path), "first", Space(make_profile(12)), "p")._notes_of_all()[0]
    assert (notes["kept"], notes["more"]) == (1, 2)


def test_what_cannot_be_written_is_an_error_of_the_study(tmp_path, monkeypatch) -> None:
    opened = Journal(str(tmp_path / "study.journal"))
    (tmp_path / "study.journal").unlink()
    (tmp_path / "study.journal").mkdir()
    with pytest.raises(StudyError, match="cannot write the storage .*: Is a directory; once it can be written"):
        opened.append_logs([ENTRY])


def test_a_turn_that_fails_is_given_back(tmp_path) -> None:
    """The next writer waited half a minute for a lock that nobody held."""
    path = tmp_path / "study.journal"
    opened = Journal(str(path))
    path.unlink()
    path.mkdir()
    with pytest.raises(StudyError):
        opened.append_logs([ENTRY])
    assert not list(tmp_path.glob("*.lock"))
    path.rmdir()
    opened.append_logs([ENTRY])  # a file that was removed is made again
    assert list(Journal(str(path)).read_logs(0)) == [ENTRY]
