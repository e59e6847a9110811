"""Which of VBench's dimensions can run, and what each of the others lacks, in words that a person can act on."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pabtune.vbench.dimensions import Dimension
from pabtune.vbench.environment import Environment, Lock, pins_digest
from pabtune.vbench.process import answers, last_line
from pabtune.vbench.weights import WEIGHT_FILES, problem_of

NOT_INSTALLED = "VBench is not installed; run: pabtune vbench setup"
OTHER_PINS = "VBench is installed with other versions than this pabtune pins; run: pabtune vbench setup"


@dataclass(frozen=True, slots=True, kw_only=True)
class FileProblem:
    """A weight file that is missing or wrong: what is wrong, where it comes from, and where it belongs.

    As text it is all of it in a line.
    """

    file: str
    problem: str
    url: str
    size: str
    sha256: str
    path: str

    def __str__(self) -> str:
        checksum = f", sha256 {self.sha256}" if self.sha256 else ""
        return f"{self.path} {self.problem}: {self.size} from {self.url}{checksum}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """Whether a dimension can run, and if not, everything that is in the way.

    Attributes:
        dimension: which.
        packages: what is wrong with the installed packages; empty = nothing.
        files: its weight files that are missing or wrong.
    """

    dimension: Dimension
    packages: str
    files: tuple[FileProblem, ...]

    @property
    def can_run(self) -> bool:
        """Whether nothing is in the way."""
        return not self.packages and not self.files

    @property
    def reasons(self) -> tuple[str, ...]:
        """What is in the way, in short; of files see `files`."""
        return (*([self.packages] if self.packages else []), *(f"{each.file} {each.problem}" for each in self.files))

    def to_document(self) -> dict[str, Any]:
        """What `pabtune vbench doctor --json` prints of a dimension."""
        return {
            "dimension": self.dimension.name,
            "network": self.dimension.network,
            "can_run": self.can_run,
            "packages": self.packages or None,
            "files": [
                {
                    "file": each.file, "problem": each.problem, "path": each.path, "url": each.url, "size": each.size,
                    "sha256": each.sha256 or None,
                }
                for each in self.files
            ],
        }  # fmt: skip


def examine(environment: Environment, dimensions: Iterable[Dimension], *, imports: bool = True) -> list[Diagnosis]:
    """What is in the way of each dimension: imports it in VBench's environment, checks the checksums of its weight files.

    Args:
        environment: which.
        dimensions: which.
        imports: whether they are imported, which takes seconds; what is only missing in the lock file is told in any case.

    Raises:
        VbenchError: the lock file is broken, or the interpreter does not run.
    """
    dimensions = list(dimensions)
    lock = environment.lock()
    locked = lock.weights if lock is not None else {}
    if lock is None:
        packages = dict.fromkeys((dimension.name for dimension in dimensions), NOT_INSTALLED)
    elif lock.pins != pins_digest():
        packages = dict.fromkeys((dimension.name for dimension in dimensions), OTHER_PINS)
    elif imports:
        packages = _import_problems(environment, dimensions)
    else:
        packages = {each.name: "" if _has_package(each, lock) else _lack_of(each, environment) for each in dimensions}
    wrong = _file_problems(environment, dimensions, locked)
    return [
        Diagnosis(
            dimension=dimension,
            packages=packages[dimension.name],
            files=tuple(wrong[name] for name in dimension.files if name in wrong),
        )
        for dimension in dimensions
    ]


def _file_problems(
    environment: Environment, dimensions: list[Dimension], locked: Mapping[str, str]
) -> dict[str, FileProblem]:
    """Weight files that are missing or wrong, each looked at once."""
    wrong = {}
    for name in dict.fromkeys(name for dimension in dimensions for name in dimension.files):
        file = WEIGHT_FILES[name]
        problem = problem_of(file, environment.weights, locked.get(name, ""))
        if problem is not None:
            wrong[name] = FileProblem(
                file=name,
                problem=problem,
                url=file.url + (f" (in it: {file.member})" if file.member else ""),
                size=file.size(),
                sha256=file.sha256,
                path=str(environment.weights / name),
            )
    return wrong


def _import_problems(environment: Environment, dimensions: list[Dimension]) -> dict[str, str]:
    """For each dimension why it cannot be imported; empty = it can."""
    request = {"do": "check", "dimensions": [dimension.name for dimension in dimensions]}
    log = environment.log("doctor")
    problems = {answer["dimension"]: answer["problem"] or "" for answer in answers(environment, request, log)}
    for dimension in dimensions:
        problems.setdefault(dimension.name, f"VBench's process died before it was imported: {last_line(log)}")
    for dimension in dimensions:
        if dimension.package and dimension.package in problems[dimension.name]:
            problems[dimension.name] = _lack_of(dimension, environment)
    return problems


def _has_package(dimension: Dimension, lock: Lock) -> bool:
    """Whether the package that a dimension needs beside VBench's own is installed."""
    return not dimension.package or dimension.package in lock.packages


def _lack_of(dimension: Dimension, environment: Environment) -> str:
    return (
        f"the package {dimension.package} is missing, which is on no package index; install it from its repository: "
        f"{environment.python} -m pip install --no-build-isolation git+https://github.com/facebookresearch/detectron2, then "
        "run: pabtune vbench setup"
    )
