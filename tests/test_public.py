import ast
from pathlib import Path

import pytest

import pabtune

TREE = ast.parse((Path(__file__).parent.parent / "pabtune" / "__init__.py").read_text(encoding="utf-8"))


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
