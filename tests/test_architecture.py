"""Floors, owners of outside libraries, and a cheap import."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "pabtune"
FLOORS = {
    "records": 0, "catalog": 0, "planning": 1, "quality": 2, "models": 2, "runtime": 3, "parallel": 3, "testing": 3,
    "tuning": 4, "report": 5, "cli": 6,
}  # fmt: skip
OWNERS = {
    "optuna": {"tuning/search.py"},
    "tensorboard": {"report/tensorboard.py"},
    "torch.utils.tensorboard": {"report/tensorboard.py"},
    "matplotlib": {"report/figures.py"},
    "imageio": {"report/videos.py"},
    "PIL": {"report/videos.py"},
    "jsonschema": {"records/files.py"},
    "rich": {"cli/output.py", "cli/evaluate.py"},
    "torch.distributed": {f"parallel/{name}.py" for name in ("mesh", "collectives", "launch")},
}
FILES = sorted(ROOT.rglob("*.py"))


def imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return names


def floor_of(module: str) -> int | None:
    parts = module.split(".")
    return FLOORS[parts[1]] if len(parts) > 1 and parts[0] == "pabtune" and parts[1] in FLOORS else None


@pytest.mark.parametrize(
    "path", [file for file in FILES if file.parent != ROOT], ids=lambda p: str(p.relative_to(ROOT))
)
def test_imports_never_go_up(path: Path) -> None:
    own = FLOORS[path.relative_to(ROOT).parts[0]]
    above = [name for name in imports(path) if (floor := floor_of(name)) is not None and floor > own]
    assert not above


@pytest.mark.parametrize("library", OWNERS)
def test_outside_libraries_have_one_owner(library: str) -> None:
    users = {
        str(path.relative_to(ROOT))
        for path in FILES
        if any(name == library or name.startswith(library + ".") for name in imports(path))
    }
    assert users <= OWNERS[library]


@pytest.mark.parametrize(
    "path", [p for p in FILES if p.relative_to(ROOT).parts[0] in ("records", "catalog", "planning")], ids=str
)
def test_lower_floors_need_no_torch(path: Path) -> None:
    assert not [name for name in imports(path) if name.split(".")[0] in ("torch", "diffusers", "transformers")]


@pytest.mark.parametrize(
    "statement",
    [
        "import pabtune",
        "import pabtune; pabtune.Policy.load('policies/shapes-30steps.json')",
        "import pabtune; pabtune.Profile.load('profiles/shapes-30steps.json')",
        "from pabtune.planning import masks, presets, windows",
        "import pabtune; pabtune.CATALOG.with_card(pabtune.ModelCard(transformer='Mine', sites=pabtune.catalog.WAN.sites))",
    ],
)
def test_import_is_cheap(statement: str) -> None:
    check = f"{statement}; import sys; assert 'torch' not in sys.modules, 'torch was imported'"
    subprocess.run([sys.executable, "-c", check], check=True, cwd=ROOT.parent)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_can_be_read_in_one_go(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


@pytest.mark.parametrize("folder", ["policies", "profiles"])
def test_published_schemas_are_the_ones_in_use(folder: str) -> None:
    name = {"policies": "policy", "profiles": "profile"}[folder] + ".schema.json"
    used = (ROOT / "records" / "schemas" / name).read_text(encoding="utf-8")
    assert (ROOT.parent / folder / name).read_text(encoding="utf-8") == used
