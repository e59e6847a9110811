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
