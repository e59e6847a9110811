"""Floors, circles, owners of outside libraries, of their private names and of the environment, sizes, what needs no torch.

One test for each rule, which names all files that break it.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "pabtune"
FLOORS = {
    "records": 0, "catalog": 0, "planning": 1, "quality": 2, "vbench": 2, "engines": 2, "libraries": 2, "models": 2,
    "runtime": 3, "parallel": 3, "testing": 3, "tuning": 4, "methods": 4, "report": 5, "cli": 6,
}  # fmt: skip
OWNERS = {
    "optuna": {"tuning/study.py", "tuning/once.py", "tuning/journal.py"},
    "sqlalchemy": {"tuning/study.py"},
    "psutil": {"tuning/workers.py"},
    "tensorboard": {"report/tensorboard.py"},
    "torch.utils.tensorboard": {"report/tensorboard.py"},
    "matplotlib": {"report/figures.py", "report/comparison.py"},
    "imageio": {"report/videos.py"},
    "imageio_ffmpeg": {"quality/ffmpeg.py"},
    "PIL": {"report/videos.py"},
    "jinja2": {"report/page/rendering.py"},
    "jsonschema": {"records/files.py"},
    "huggingface_hub": {"records/hub.py", "models/published.py"},
    "rich": {"cli/output.py", "cli/evaluate.py", "cli/compare.py"},
    "torch.distributed": {f"parallel/{name}.py" for name in ("mesh", "collectives", "launch")},
}
TORCH = ("torch", "diffusers", "transformers", "accelerate")
OWNERS_OF_PRIVATE_NAMES: Mapping[str, str] = {
    "libraries/torch_internals.py": "private names of torch",
    "libraries/diffusers_internals.py": "private names of diffusers and accelerate",
    "models/registry.py": "a key of model_index.json",
    "models/open_sora_plan/vae.py": "a key of a saved configuration",
    "report/tensorboard.py": "the writer's file takes a GIF, which its public methods do not",
}
"""Files that may use private names of other libraries, and why."""

ENVIRONMENT: Mapping[str, str] = {
    "parallel/process.py": "says who this process is, from the variables of its launcher",
    "parallel/launch.py": "passes the environment to child processes, and restores what torch's launcher changes in it",
    "vbench/runner.py": "runs in another interpreter, whose libraries read where their files are",
}
"""Files that may read environment variables, and why."""

CHOOSE_AMONG_FOLDERS: Mapping[str, str] = {
    "pabtune.models.registry": "loads any of the models by name",
    "pabtune.planning.layouts": "prices each layout",
    "pabtune.models.workloads": "knows the parts of each of the paper's models",
}
"""Modules that know all folders beside them, and why."""

LINES, FUNCTION_LINES = 400, 60


@cache
def trees() -> dict[str, ast.Module]:
    """Syntax trees by path below the package."""
    return {
        str(path.relative_to(ROOT)): ast.parse(path.read_text(encoding="utf-8")) for path in sorted(ROOT.rglob("*.py"))
    }


def imports(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Imported modules with the name taken from each, or an empty one; those for type checkers are left out."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.module or "", alias.name) for alias in node.names)
        elif isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            for other in node.orelse:
                yield from imports(other)
        else:
            yield from imports(node)


def modules(file: str) -> set[str]:
    return {module for module, _ in imports(trees()[file])}


def is_of(library: str, module: str) -> bool:
    return module == library or module.startswith(f"{library}.")


def floor_of(module: str) -> int | None:
    parts = module.split(".")
    return FLOORS.get(parts[1]) if len(parts) > 1 and parts[0] == "pabtune" else None


def top_imports(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Imports that are made when the module is, not those inside of functions."""
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield from imports(ast.Module(body=[node], type_ignores=[]))


def graph() -> dict[str, set[str]]:
    """For each of our modules those of ours that it imports anywhere."""
    names = {"pabtune." + file.removesuffix(".py").replace("/", "."): file for file in trees()}
    names = {name.removesuffix(".__init__"): file for name, file in names.items()}
    return {
        name: {f"{module}.{taken}" if f"{module}.{taken}" in names else module for module, taken in imports(trees()[file])}
        & set(names)
        for name, file in names.items()
    }  # fmt: skip


def circles(edges: Mapping[str, set[str]]) -> list[str]:
    """Each node that can be reached from itself over others, with a way."""
    found = []
    for start in edges:
        ways = [[start]]
        seen = set()
        while ways:
            way = ways.pop()
            for following in sorted(edges.get(way[-1], ())):
                if following == start and len(way) > 1:
                    found.append(" -> ".join([*way, start]))
                elif following not in seen and following != start:
                    seen.add(following)
                    ways.append([*way, following])
    return found


def test_imports_never_go_up() -> None:
    above = [
        f"{file} imports {module}"
        for file in trees()
        if "/" in file
        for module in sorted(modules(file))
        if (floor := floor_of(module)) is not None and floor > FLOORS[file.split("/")[0]]
    ]
    assert not above


def test_modules_import_each_other_in_no_circle() -> None:
    assert not circles(graph())


def test_folders_import_each_other_in_no_circle() -> None:
    """Neither the floors' folders nor those inside of them; what chooses among the folders beside it stands above them."""
    folders: dict[str, set[str]] = {}
    files = graph()
    packages = {name for name in files if any(other.startswith(f"{name}.") for other in files)}

    def folder(name: str) -> str:
        return name if name in packages else name.rpartition(".")[0]

    for name, targets in files.items():
        if name not in CHOOSE_AMONG_FOLDERS:
            folders.setdefault(folder(name), set()).update({folder(each) for each in targets} - {folder(name)})
    folders.pop("pabtune", None)
    assert not circles(folders)


def test_circles_are_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [
        "a -> b -> c -> a", "b -> c -> a -> b", "c -> a -> b -> c",
    ]  # fmt: skip


def test_outside_libraries_have_one_owner() -> None:
    strangers = [
        f"{file} imports {library}"
        for library, owners in OWNERS.items()
        for file in trees()
        if file not in owners and any(is_of(library, module) for module in modules(file))
    ]
    assert not strangers


def own_private_names() -> set[str]:
    """Private names that pabtune defines anywhere: functions, classes, attributes, slots, variables, arguments."""
    names = set()
    for tree in trees().values():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                names.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                names.add(node.id)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                if isinstance(node.value, ast.Name) and node.value.id == "self":
                    names.add(node.attr)
    return {name for name in names if is_private(name)}


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and len(name) > 1


def private_names(tree: ast.Module, own: set[str]) -> set[str]:
    """Private names of other libraries: attributes, names given as text to `getattr` and its like, imported modules."""
    names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id.endswith("attr"):
            names |= {
                each.value for each in node.args if isinstance(each, ast.Constant) and isinstance(each.value, str)
            }
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("get", "pop"):
            names |= {
                each.value for each in node.args[:1] if isinstance(each, ast.Constant) and isinstance(each.value, str)
            }
        elif isinstance(node, ast.Compare) and isinstance(node.left, ast.Constant) and isinstance(node.left.value, str):
            names.add(node.left.value)
    for module, taken in imports(tree):
        if not is_of("pabtune", module):
            names |= {*module.split("."), taken}
    return {name for name in names if is_private(name) and name.isidentifier()} - own


def test_private_names_of_other_libraries_have_owners() -> None:
    own = own_private_names()
    strangers = [
        f"{file} uses {', '.join(sorted(names))}"
        for file, tree in trees().items()
        if file not in OWNERS_OF_PRIVATE_NAMES and (names := private_names(tree, own))
    ]
    assert not strangers


def test_owners_of_private_names_use_some() -> None:
    own = own_private_names()
    assert not [
        file for file in OWNERS_OF_PRIVATE_NAMES if file in trees() and not private_names(trees()[file], own)
    ]  # fmt: skip


@pytest.mark.parametrize(
    "statement",
    [
        "module._diffusers_hook.remove()", "import torch._dynamo", "from torch._subclasses import FakeTensor",
        "getattr(module, '_hf_hook')", "'_old_forward' in vars(module)", "vars(module).pop('_compiled_call_impl')",
        "from diffusers.models.attention_dispatch import _AttentionBackendRegistry",
    ],
)  # fmt: skip
def test_a_private_name_is_seen_however_it_is_used(statement) -> None:
    assert private_names(ast.parse(statement), {"_ours"})
    assert not private_names(ast.parse("self._ours = other._ours; from pabtune.x import _ours"), {"_ours"})


def reads_environment(tree: ast.AST) -> bool:
    """Whether `os.environ` or `os.getenv` is used, under whatever name it was imported."""
    names = ("environ", "environb", "getenv", "getenvb")
    return any(
        (isinstance(node, ast.Attribute) and node.attr in names)
        or (isinstance(node, ast.ImportFrom) and node.module == "os" and any(each.name in names for each in node.names))
        for node in ast.walk(tree)
    )


def test_one_module_reads_the_environment() -> None:
    assert {file for file, tree in trees().items() if reads_environment(tree)} == set(ENVIRONMENT)


@pytest.mark.parametrize(
    "statement", ["os.environ['RANK']", "os.getenv('RANK')", "from os import environ as e", "import os as o; o.environ"]
)
def test_reading_the_environment_is_detected(statement) -> None:
    assert reads_environment(ast.parse(statement))
    assert not reads_environment(ast.parse("import os; os.cpu_count(); environment = {}"))


def test_lower_floors_need_no_torch() -> None:
    users = [
        f"{file} imports {module}"
        for file in trees()
        if FLOORS.get(file.split("/")[0], 9) <= 1
        for module in sorted(modules(file))
        if module.split(".")[0] in TORCH
    ]
    assert not users


READ_CHECK_DRAW = """
from pabtune import Policy, Profile
from pabtune.planning import timelines
from pabtune.planning.masks import resolve
from pabtune.planning.schedules import NoiseSchedule
from pabtune.planning.units import units_of
from pabtune.planning.windows import ranking_of, windows_of
from pabtune.report import figures
from pabtune.tuning import results, space, study, workers
profile, policy = Profile.load('profiles/shapes-30steps.json'), Policy.load('policies/shapes-30steps.json')
sites = [*profile.sites, *units_of(policy, profile.sites)]
resolve(policy, sites, NoiseSchedule(steps=profile.steps, sigmas=profile.made_for.sigmas))
windows_of(profile), ranking_of(profile)
figures.draw_curves(figures.curves_data(profile))
figures.draw_heat_map(figures.heat_map_data(profile, 'mlp'))
figures.draw_distances(figures.distances_data(profile, 'cross'))
figures.draw_pareto(figures.pareto_data([]))
figures.draw_timeline(timelines.timeline_of(policy, profile=profile))
list(space.Space(profile).first_trials())
"""


@pytest.mark.parametrize("statements", ["import pabtune", READ_CHECK_DRAW], ids=["import", "read, check, draw"])
def test_policies_and_profiles_need_no_torch(statements: str) -> None:
    check = f"{statements}\nimport sys; print([name for name in {TORCH} if name in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", check], check=True, cwd=ROOT.parent, capture_output=True, text=True)
    assert loaded.stdout == "[]\n"


def test_files_and_functions_can_be_read_in_one_go() -> None:
    long = [
        f"{file}: {count} lines"
        for file in trees()
        if (count := len((ROOT / file).read_text(encoding="utf-8").splitlines())) > LINES
    ]
    long += [
        f"{file}: {node.name} has {count} lines"
        for file, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (count := body_lines(node)) > FUNCTION_LINES
    ]
    assert not long


def body_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function behind its signature and docstring, which the public surface needs for its arguments."""
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    return (node.end_lineno or 0) - body[0].lineno + 1 if body else 0


@pytest.mark.parametrize("folder", ["policies", "profiles"])
def test_published_schemas_are_the_ones_in_use(folder: str) -> None:
    name = {"policies": "policy", "profiles": "profile"}[folder] + ".schema.json"
    used = (ROOT / "records" / "schemas" / name).read_text(encoding="utf-8")
    assert (ROOT.parent / folder / name).read_text(encoding="utf-8") == used
