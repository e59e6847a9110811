"""VBench's environment: a folder with a virtual environment of its own, weight files, scores, and a lock file.

VBench 0.1.5 wants transformers 4.33.2 and NumPy 1; neither lives with a current diffusers. `tokenizers` 0.13.3, which that
transformers needs, has no wheels for Python above 3.11.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from importlib.resources import files
from pathlib import Path

from pabtune.records.errors import FileError, VbenchError
from pabtune.records.files import load_json, save_json
from pabtune.vbench.weights import WEIGHT_FILES, sha256_of

LOCK_SCHEMA = "pabtune.vbench-lock/1"
PYTHON = (3, 11)
"""The only version of Python that all pinned packages have wheels for."""

VOCABULARY = "ViCLIP/bpe_simple_vocab_16e6.txt.gz"
"""Weight file that the pinned `openai-clip` package brings along."""


def default_home() -> Path:
    """Folder of the environment where the user names none."""
    return Path.home() / ".cache" / "pabtune" / "vbench"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lock:
    """What `setup` installed: versions of the packages, checksums of the weight files, of the pins."""

    python: str
    pins: str
    packages: Mapping[str, str]
    weights: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Environment:
    """Where everything of VBench lies, below one folder."""

    home: Path

    @property
    def python(self) -> Path:
        """The interpreter of the virtual environment."""
        return self.home / "venv" / "bin" / "python"

    @property
    def site_packages(self) -> Path:
        """Where its packages are installed."""
        return self.home / "venv" / "lib" / f"python{PYTHON[0]}.{PYTHON[1]}" / "site-packages"

    @property
    def weights(self) -> Path:
        """Folder of the weight files."""
        return self.home / "weights"

    @property
    def scores(self) -> Path:
        """Folder of the scores that are known."""
        return self.home / "scores"

    def log(self, name: str) -> Path:
        """The file that a process writes its words to."""
        return self.home / "logs" / f"{name}.log"

    @property
    def lock_path(self) -> Path:
        """The lock file; it is written last, so that it is there if the environment is complete."""
        return self.home / "lock.json"

    def lock(self) -> Lock | None:
        """What is installed, or None where `setup` has not come to its end.

        Raises:
            VbenchError: the lock file is broken, or the folder cannot be looked at.
        """
        try:
            if not self.lock_path.exists() or not self.python.exists():
                return None
        except OSError as error:
            raise VbenchError(f"{self.home}: cannot look for VBench here: {error.strerror}") from error
        document = load_json(self.lock_path, LOCK_SCHEMA, VbenchError)
        return Lock(
            python=document["python"],
            pins=document["pins"],
            packages=document["packages"],
            weights=document["weights"],
        )

    def complete_lock(self) -> Lock:
        """What is installed.

        Raises:
            VbenchError: the environment is not complete.
        """
        lock = self.lock()
        if lock is None:
            raise VbenchError(f"{self.home}: VBench is not installed here; run: pabtune vbench setup")
        return lock

    def save_lock(self, lock: Lock) -> None:
        """Writes the lock file."""
        document = {
            "schema": LOCK_SCHEMA,
            "python": lock.python,
            "pins": lock.pins,
            "packages": dict(lock.packages),
            "weights": dict(lock.weights),
        }
        save_json(self.lock_path, document)

    def process_variables(self) -> dict[str, str]:
        """Environment variables under which VBench looks for files here alone, and asks no network."""
        return {
            "VBENCH_CACHE_DIR": str(self.weights),
            "TORCH_HOME": str(self.weights / "torch"),
            "HF_HOME": str(self.weights / "huggingface"),
            "HF_HUB_OFFLINE": "1",
            "TRANSFORMERS_OFFLINE": "1",
            # VBench calls torch.load as before torch 2.6; the files are checked against their checksums first.
            "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1",
        }


def pins_digest() -> str:
    """Checksum of the pinned versions."""
    return sha256((files("pabtune.vbench") / "pins.txt").read_bytes()).hexdigest()


def find_python(named: str | None) -> str:
    """An interpreter of the one suitable version.

    Args:
        named: by the user; None = this one or `python3.11`, whichever fits.

    Raises:
        VbenchError: there is none, or the named one is of another version.
    """
    wanted = ".".join(map(str, PYTHON))
    if named is None:
        if sys.version_info[:2] == PYTHON:
            return sys.executable
        path = shutil.which(f"python{wanted}")
        if path is None:
            raise VbenchError(
                f"VBench needs Python {wanted}, of which there is none here; install it, or name it: --python PATH"
            )
        named = path
    try:
        ask = "import sys; print(*sys.version_info[:2], sep='.')"
        answer = subprocess.run([named, "-I", "-c", ask], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise VbenchError(f"--python {named}: does not run: {error}") from error
    if answer.stdout.strip() != wanted:
        raise VbenchError(f"--python {named}: is Python {answer.stdout.strip()}, but VBench needs {wanted}")
    return named


def install(environment: Environment, python: str) -> None:
    """Makes the virtual environment and installs the pinned packages: minutes, and gigabytes.

    The lock file is removed first and written last; whatever stops this in between, it starts anew the next time.

    Raises:
        VbenchError: a step fails; the message names the log.
        FileError: the folder cannot be written to.
    """
    log = environment.log("setup")
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        before = environment.lock()
        environment.lock_path.unlink(missing_ok=True)
        log.write_text("", encoding="utf-8")
    except OSError as error:
        raise FileError(f"{environment.home}: cannot write here: {error.strerror}") from error
    pip = (str(environment.python), "-I", "-m", "pip")
    pins = ("--constraint", str(files("pabtune.vbench") / "pins.txt"))
    _step(
        "making the virtual environment", (python, "-I", "-m", "venv", "--clear", str(environment.home / "venv")), log
    )
    # setuptools first: packages of 2021 import what it no longer brings. torch first: the newest of it is not asked for.
    _step("installing torch", (*pip, "install", *pins, "setuptools", "wheel", "torch", "torchvision"), log)
    _step("installing vbench", (*pip, "install", *pins, "vbench"), log)
    ask = (str(environment.python), "-I", "-c", "import platform; print(platform.python_version())")
    version = _step("asking for the version of Python", ask, log)
    environment.save_lock(
        Lock(
            python=version.strip(),
            pins=pins_digest(),
            packages=_packages(environment, log),
            weights=before.weights if before else {},
        )
    )


def _packages(environment: Environment, log: Path) -> dict[str, str]:
    """Installed packages and their versions."""
    ask = (str(environment.python), "-I", "-m", "pip", "list", "--format", "json")
    listing = json.loads(_step("listing the packages", ask, log))
    return {package["name"].lower(): package["version"] for package in listing}


def _step(what: str, command: Sequence[str], log: Path) -> str:
    """Runs a command, which does `what`, with its words in the log; returns what it prints."""
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        with log.open("a", encoding="utf-8") as file:
            file.write(f"$ {' '.join(command)}\n{done.stdout}{done.stderr}\n")
    except OSError as error:
        raise VbenchError(f"{command[0]}: cannot run: {error.strerror}") from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["it printed nothing"]
        reason = next((line for line in lines if line.startswith("ERROR")), lines[-1])
        raise VbenchError(f"{what} failed with exit code {done.returncode}; all of it is in {log}: {reason}")
    return done.stdout


def update_packages(environment: Environment) -> None:
    """Writes into the lock file which packages are installed now: users add detectron2 by hand.

    Raises:
        VbenchError: the environment is not complete.
    """
    lock = environment.complete_lock()
    environment.save_lock(replace(lock, packages=_packages(environment, environment.log("setup"))))


def unlock_weights(environment: Environment, name: str) -> None:
    """Forgets the checksum of a weight file, which was replaced.

    Raises:
        VbenchError: the environment is not complete.
    """
    lock = environment.complete_lock()
    environment.save_lock(replace(lock, weights={key: value for key, value in lock.weights.items() if key != name}))


def lock_weights(environment: Environment) -> Lock:
    """Adds the checksums of weight files that are there and not yet locked to the lock file.

    Raises:
        VbenchError: the environment is not complete.
    """
    lock = environment.complete_lock()
    there = {name for name in WEIGHT_FILES if (environment.weights / name).is_file()}
    new = {name: sha256_of(environment.weights / name) for name in sorted(there - set(lock.weights))}
    if new:
        lock = replace(lock, weights={**lock.weights, **new})
        environment.save_lock(lock)
    return lock
