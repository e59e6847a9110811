"""torch.compile around a policy: one graph per pattern of the policy, no graph breaks, nothing compiled in later runs.

The graphs are captured and run as they are (no code generator), so that results must be equal bit for bit.
"""

import copy

import pytest
import torch
from torch._dynamo.testing import CompileCounter

import pabtune
from pabtune.records.errors import ModelError
from tests.pipelines.cases import CASES, cases, idle, policy, run, transformers_of

pytestmark = pytest.mark.filterwarnings("ignore")


WHOLE = cases(fast=("wan-2.1", "cogvideox-ddim"))
BLOCKS = cases(fast=("wan-2.1",))


@pytest.fixture(autouse=True)
def fresh_dynamo():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("name", WHOLE)
def test_a_compiled_model_has_one_graph_per_pattern(name, load) -> None:
    pipeline = load(name)
    with pabtune.broadcast(pipeline, policy(name)) as active:
        expected = run(pipeline, name)
        other = run(pipeline, name, seed=1)
    counter = CompileCounter()
    for part in transformers_of(pipeline):
        part.compile(backend=counter, fullgraph=True, dynamic=False)
    with pabtune.broadcast(pipeline, policy(name)) as active:
        assert (run(pipeline, name) == expected).all()
        compiled = counter.frame_count
        shapes = len(
            CASES[name].branches
        )  # branches may have shapes of their own, transformers have graphs of their own
        assert compiled <= active.patterns * shapes
        assert (run(pipeline, name, seed=1) == other).all()
        assert (run(pipeline, name) == expected).all()
        assert counter.frame_count == compiled


@pytest.mark.parametrize("name", BLOCKS)
def test_compiled_blocks_share_their_graphs(name, load) -> None:
    """However many layers: as many graphs as a block has patterns, not layers times patterns."""
    pipeline = load(name)
    with pabtune.broadcast(pipeline, policy(name)):
        expected = run(pipeline, name)
    counts = []
    for layers in (2, 4):
        torch._dynamo.reset()
        pipeline = load(name)
        for part in transformers_of(pipeline):
            deepen(part, layers)
        counter = CompileCounter()
        for part in transformers_of(pipeline):
            part.compile_repeated_blocks(backend=counter, fullgraph=True, dynamic=False)
        with pabtune.broadcast(pipeline, policy(name)):
            made = run(pipeline, name)
            compiled = counter.frame_count
            assert (run(pipeline, name) == made).all()
            assert counter.frame_count == compiled
        if layers == 2:
            assert (made == expected).all()
        counts.append(compiled)
    assert counts[0] == counts[1]


def deepen(transformer: torch.nn.Module, layers: int) -> None:
    """Repeats the blocks of every list until it has so many."""
    for module in list(transformer.children()):
        if isinstance(module, torch.nn.ModuleList) and 1 < len(module) < layers:
            blocks = list(module)
            module.extend(copy.deepcopy(blocks[-1]) for _ in range(layers - len(blocks)))


def test_compile_after_enable_is_refused_with_the_reason(load) -> None:
    pipeline = load("wan-2.1")
    with pabtune.broadcast(pipeline, policy("wan-2.1")):
        pipeline.transformer.compile(backend="eager")
        with pytest.raises(ModelError, match="compile it before a policy is enabled"):
            run(pipeline, "wan-2.1")


def test_a_wrapped_transformer_is_known(load) -> None:
    pipeline = load("wan-2.1")
    with pabtune.broadcast(pipeline, policy("wan-2.1")):
        expected = run(pipeline, "wan-2.1")
    counter = CompileCounter()
    pipeline.transformer = torch.compile(pipeline.transformer, backend=counter, fullgraph=True, dynamic=False)
    with pabtune.broadcast(pipeline, policy("wan-2.1")) as active:
        assert (run(pipeline, "wan-2.1") == expected).all()
    assert 0 < counter.frame_count <= active.patterns * 2


def test_range_one_compiles_once(load) -> None:
    pipeline = load("ltx")
    counter = CompileCounter()
    pipeline.transformer.compile(backend=counter, fullgraph=True, dynamic=False)
    with pabtune.broadcast(pipeline, idle("ltx")):
        run(pipeline, "ltx")
        run(pipeline, "ltx")
    assert counter.frame_count == 1
