import ast
import json
import re
import tomllib
from pathlib import Path

import pytest

import pabtune

ROOT = Path(__file__).parent.parent
TREE = ast.parse((ROOT / "pabtune" / "__init__.py").read_text(encoding="utf-8"))


def test_public_names_are_the_same_for_programs_and_for_tools() -> None:
    checked = {
        alias.name: node.module
        for block in TREE.body
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in block.body
        for alias in node.names
    }
    assert checked == pabtune._LAZY
    eager = {name for name in pabtune.__all__ if name not in pabtune._LAZY}
    assert eager <= set(vars(pabtune))
    assert set(pabtune._LAZY) <= set(pabtune.__all__)


@pytest.mark.parametrize("name", pabtune.__all__)
def test_every_public_name_is_there_and_says_what_it_is(name) -> None:
    assert getattr(pabtune, name).__doc__


def test_another_name_is_not() -> None:
    with pytest.raises(AttributeError, match="module 'pabtune' has no attribute 'accelerate'"):
        _ = pabtune.accelerate


@pytest.mark.parametrize(
    ("words", "file", "figure"),
    [
        (
            r"`benchmarks/results/engine\.json`[^:]*: (\d+) microseconds",
            "engine",
            lambda it: it["range_one_microseconds"],
        ),
        (r"(\d+) % of the saving that the measured", "engine", lambda it: 100 * it["realised_over_promised"]),
        (r"the PSNR of real ones is (0\.\d+)", "surrogate", lambda it: it["rank_correlation"]),
        (r"by a profile alone (0\.\d+)", "surrogate", lambda it: it["rank_correlation_by_profile"]),
    ],
)
def test_the_readmes_figures_are_those_of_the_files_that_it_cites(words, file, figure) -> None:
    """Fault 28: "0.2 ms" was 114 microseconds in its file."""
    text = " ".join((ROOT / "README.md").read_text().split())
    (told,) = re.findall(words, text)
    measured = figure(json.loads((ROOT / "benchmarks" / "results" / f"{file}.json").read_text()))
    assert told == f"{measured:.{len(told.partition('.')[2])}f}"


def test_the_readmes_front_is_the_measured_one() -> None:
    """Mean and expected worst of 12 of the front and of fewer steps, in each row."""
    rows = json.loads((ROOT / "benchmarks" / "results" / "front.json").read_text())["policies"]
    told = {row["policy"]: f"{row['psnr_db']:.1f} / {row['worst_of_12_db']:.1f}" for row in rows}
    text, counts = (ROOT / "README.md").read_text(), (19, 15, 12, 10, 9, 8)
    for count in counts:
        line = next(line for line in text.splitlines() if line.startswith(f"| {count} |"))
        assert f"**{told[f'shapes-30steps-{count}of30']}** | {told[f'steps:{count}']} |" in line
        assert all(told[name] in line for name in re.findall(r"`(every:[^`]+)`", line))
    assert f"careful preset, is at {told['pab246']} in" in text


def test_all_data_files_are_part_of_the_package() -> None:
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    packed = {
        path
        for package, patterns in setuptools["package-data"].items()
        for pattern in patterns
        for path in (ROOT / package.replace(".", "/")).glob(pattern)
    }
    files = {path for path in (ROOT / "pabtune").rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert {path for path in files if path.suffix != ".py"} == {path for path in packed if path.is_file()}
