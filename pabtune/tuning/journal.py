"""The journal file of studies: whole lines, whoever died while one was written, and whether or not the disk was full.

Knows a file of lines; knows nothing of what they say.
"""

from pathlib import Path
from typing import Any

from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

from pabtune.records.errors import StudyError, first_line


class MendingLock(JournalFileSymlinkLock):
    """Turns at a journal; whoever has one removes the half line that an earlier writer left."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._path = Path(path)

    def acquire(self) -> bool:
        """Waits for the turn."""
        is_taken = super().acquire()
        try:
            if is_taken:
                cut_half_line(self._path)
        except BaseException:
            self.release()
            raise
        return is_taken


class Journal(JournalFileBackend):
    """A journal file, made if there is none.

    Args:
        path: of the file.
    """

    def __init__(self, path: str) -> None:
        lock = MendingLock(path)
        super().__init__(path, lock)
        self._name = path
        if has_half_line(Path(path)):
            lock.acquire()
            lock.release()

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Writes entries at the end.

        Raises:
            StudyError: they cannot be written; the next writer removes what was written of them.
        """
        try:
            super().append_logs(logs)
        except OSError as error:
            raise StudyError(
                f"cannot write the storage {self._name!r}: {error.strerror or first_line(error)}; once it can be written, "
                "the same command goes on with what is in it"
            ) from error


def has_half_line(path: Path) -> bool:
    """Whether a file ends inside of a line; one that is not there does not."""
    if not path.exists():
        return False
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - 1, 0))
        return file.read(1) not in (b"", b"\n")


def cut_half_line(path: Path) -> None:
    """Removes a last line that has no end."""
    if has_half_line(path):
        whole = path.read_bytes()
        with path.open("r+b") as file:
            file.truncate(whole.rfind(b"\n") + 1)
