"""Setting up VBench: its environment, its weight files where there is a network, the lock file."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from shutil import copyfile

from pabtune.records.errors import FileError, VbenchError
from pabtune.records.files import check_writable, holding_file, write_atomically
from pabtune.vbench.dimensions import Dimension
from pabtune.vbench.environment import (
    VOCABULARY,
    Environment,
    find_python,
    install,
    lock_weights,
    pins_digest,
    unlock_weights,
    update_packages,
)
from pabtune.vbench.weights import WEIGHT_FILES, WeightFile, download, problem_of


@dataclass(frozen=True, slots=True, kw_only=True)
class SetupReport:
    """What `set_up` did.

    Attributes:
        installed: whether packages were installed; False = they were there.
        downloaded: weight files.
        failed: weight file to the reason why it could not be downloaded.
    """

    installed: bool
    downloaded: tuple[str, ...]
    failed: dict[str, str]


def set_up(
    environment: Environment,
    dimensions: Iterable[Dimension],
    *,
    python: str | None,
    with_weights: bool,
    say: Callable[[str], None],
) -> SetupReport:
    """Installs what is missing and downloads what is missing; what is there and right stays as it is.

    Args:
        environment: where.
        dimensions: those whose weight files are wanted.
        python: interpreter of the virtual environment; None = one that fits.
        with_weights: whether weight files are downloaded at all.
        say: gets a line before each longer step.

    Raises:
        VbenchError: there is no suitable Python, or a package cannot be installed.
        FileError: the folder cannot be written to.
    """
    check_writable(environment.lock_path)
    with holding_file(environment.home / ".setup", "setup"):  # another one waits: each would empty the other's folder
        installed = _install_packages(environment, python, say)
        _copy_vocabulary(environment)
        downloaded, failed = _download_missing(environment, dimensions, say) if with_weights else ([], {})
        lock_weights(environment)
    return SetupReport(installed=installed, downloaded=tuple(downloaded), failed=failed)


def _install_packages(environment: Environment, python: str | None, say: Callable[[str], None]) -> bool:
    """Installs the packages where they are not there as they are pinned; whether it did."""
    try:
        lock = environment.lock()
    except VbenchError as error:
        raise VbenchError(f"{error}; remove the file, and run pabtune vbench setup again") from error
    if lock is not None and lock.pins == pins_digest():
        update_packages(environment)
        return False
    interpreter = find_python(python)
    say(f"installing VBench and its packages into {environment.home / 'venv'}: minutes, and at least 2 GB")
    install(environment, interpreter)
    return True


def _download_missing(
    environment: Environment, dimensions: Iterable[Dimension], say: Callable[[str], None]
) -> tuple[list[str], dict[str, str]]:
    """Downloads weight files that are not there or not the right ones: their names, and why others could not be had."""
    downloaded, failed = [], {}
    for file in missing_files(environment, dimensions):
        say(f"downloading {file.name}, {file.size()}")
        try:
            download(file, environment.weights)
            unlock_weights(environment, file.name)  # of the copy before, which was not this one
            downloaded.append(file.name)
        except (VbenchError, FileError) as error:
            failed[file.name] = str(error)
    return downloaded, failed


def missing_files(environment: Environment, dimensions: Iterable[Dimension]) -> list[WeightFile]:
    """Weight files of dimensions that are not there, or not the right ones."""
    lock = environment.lock()
    locked = lock.weights if lock is not None else {}
    names = dict.fromkeys(name for dimension in dimensions for name in dimension.files)
    files = [WEIGHT_FILES[name] for name in names]
    return [file for file in files if problem_of(file, environment.weights, locked.get(file.name, ""))]


def _copy_vocabulary(environment: Environment) -> None:
    """ViCLIP's vocabulary comes with one of the packages; VBench downloads it a second time."""
    source: Path = environment.site_packages / "clip" / Path(VOCABULARY).name
    target = environment.weights / VOCABULARY
    if source.is_file() and not target.is_file():
        write_atomically(target, lambda partial: copyfile(source, partial))
