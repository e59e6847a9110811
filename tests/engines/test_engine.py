from pathlib import Path

import pytest

from pabtune.engines.engine import ENGINES, find_engine
from pabtune.records.errors import PolicyError


def test_engines_are_found_by_their_name() -> None:
    assert all(find_engine(name).name == name for name in ENGINES)
    assert [name for name, engine in ENGINES.items() if not engine.takes_masks] == [
        "vllm-omni", "tensorrt-llm", "videosys"
    ]  # fmt: skip


def test_an_unknown_engine_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(PolicyError, match="unknown engine 'comfy'; known: cache-dit, sglang, "):
        find_engine("comfy")


def test_the_page_for_users_has_all_engines_as_the_table() -> None:
    lines = (Path(__file__).parents[2] / "docs" / "engines.md").read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("| `")]
    assert [(row[0].strip("`"), row[1], row[-1] == "run here") for row in rows] == [
        (engine.name, engine.version, engine.is_run) for engine in ENGINES.values()
    ]
