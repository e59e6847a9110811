"""torch.compile around a policy: one graph per pattern of the policy, no graph breaks, nothing compiled in later runs.

The graphs are captured and run as they are (no code generator), so that results must be equal bit for bit.
"""

import copy
from collections.abc import Callable

import pytest
import torch
from torch._dynamo.testing import CompileCounter

import pabtune
from pabtune.records.classifiers import PromptClassifier
from pabtune.records.errors import ModelError
from pabtune.records.policies import Policy
from pabtune.records.rules import Rule
from tests.pipelines.cases import CASES, cases, idle, policy, run, transformers_of
from tests.pipelines.test_guidance_broadcast import BATCHED, guidance, mixture
from tests.pipelines.test_guidance_calls import SEQUENTIAL

pytestmark = pytest.mark.filterwarnings("ignore")


WHOLE = cases(fast=("wan-2.1",))
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
    shapes = graphs_without_a_policy(load(name), name, compile_whole)
    counter = compile_whole(pipeline)
    with pabtune.broadcast(pipeline, policy(name)) as active:
        assert (run(pipeline, name) == expected).all()
        compiled = counter.frame_count
        assert compiled <= active.patterns * shapes * CASES[name].inner_lengths
        assert (run(pipeline, name, seed=1) == other).all()
        assert (run(pipeline, name) == expected).all()
        assert counter.frame_count == compiled


def compile_whole(pipeline) -> CompileCounter:
    counter = CompileCounter()
    for part in transformers_of(pipeline):
        part.compile(backend=counter, fullgraph=True, dynamic=False)
    return counter


def compile_blocks(pipeline) -> CompileCounter:
    counter = CompileCounter()
    for part in transformers_of(pipeline):
        part.compile_repeated_blocks(backend=counter, fullgraph=True, dynamic=False)
    return counter


def graphs_without_a_policy(pipeline, name: str, compiled: Callable[..., CompileCounter]) -> int:
    """One for each transformer and shape of its arguments; skips the test where the model itself cannot be compiled."""
    counter = compiled(pipeline)
    try:
        run(pipeline, name)
    except torch._dynamo.exc.Unsupported as refusal:
        pytest.skip(f"cannot be compiled without a policy either: {str(refusal).splitlines()[0]}")
    finally:
        torch._dynamo.reset()
    return counter.frame_count


@pytest.mark.parametrize("name", BLOCKS)
def test_compiled_blocks_share_their_graphs(name, load) -> None:
    """However many layers: as many graphs as a block has patterns, not layers times patterns."""
    if not all(type(part)._repeated_blocks for part in transformers_of(load(name))):
        pytest.skip("diffusers has no compile_repeated_blocks for this class")
    graphs_without_a_policy(load(name), name, compile_blocks)
    counts = []
    for layers in (3, 5):
        torch._dynamo.reset()
        pipeline = load(name)
        for part in transformers_of(pipeline):
            deepen(part, layers)
        with pabtune.broadcast(pipeline, policy(name)):
            expected = run(pipeline, name)
        counter = compile_blocks(pipeline)
        with pabtune.broadcast(pipeline, policy(name)):
            assert (run(pipeline, name) == expected).all()
            compiled = counter.frame_count
            assert (run(pipeline, name) == expected).all()
            assert counter.frame_count == compiled
        counts.append(compiled)
    assert counts[0] == counts[1]


NOT_DEEPENED = ("vace_blocks",)
"""Lists whose blocks stand at layers that the configuration names."""


def deepen(transformer: torch.nn.Module, layers: int) -> None:
    """Repeats the blocks of every list until it has so many."""
    for list_name, module in list(transformer.named_children()):
        if isinstance(module, torch.nn.ModuleList) and 1 < len(module) < layers and list_name not in NOT_DEEPENED:
            blocks = list(module)
            module.extend(copy.deepcopy(blocks[-1]) for _ in range(layers - len(blocks)))


def test_compile_after_enable_is_refused_with_the_reason(load) -> None:
    pipeline = load("wan-2.1")
    with pabtune.broadcast(pipeline, policy("wan-2.1")):
        pipeline.transformer.compile(backend="eager")
        with pytest.raises(ModelError, match="compile it before a policy is enabled"):
            run(pipeline, "wan-2.1")


@pytest.mark.slow
def test_a_wrapped_transformer_is_known(load) -> None:
    pipeline = load("wan-2.1")
    with pabtune.broadcast(pipeline, policy("wan-2.1")):
        expected = run(pipeline, "wan-2.1")
    counter = CompileCounter()
    pipeline.transformer = torch.compile(pipeline.transformer, backend=counter, fullgraph=True, dynamic=False)
    with pabtune.broadcast(pipeline, policy("wan-2.1")) as active:
        assert (run(pipeline, "wan-2.1") == expected).all()
    assert 0 < counter.frame_count <= active.patterns * 2


@pytest.mark.parametrize("name", ["ltx", *cases((), ("hunyuan-distilled", "latte"))])
def test_a_stack_is_compiled(name, load) -> None:
    pipeline, steps = load(name), CASES[name].call["num_inference_steps"]
    stack = Policy(name="stack", rules=(Rule(kind="stack", range=2, window=(1, steps)),))
    with pabtune.broadcast(pipeline, stack):
        expected = run(pipeline, name)
    counter = compile_whole(pipeline)
    with pabtune.broadcast(pipeline, stack) as active:
        assert (run(pipeline, name) == expected).all()
        assert counter.frame_count <= active.patterns
        assert (run(pipeline, name) == expected).all()
        assert counter.frame_count <= active.patterns


@pytest.mark.parametrize("policy", [guidance, mixture])
@pytest.mark.parametrize("name", cases(("cogvideox-ddim",), [*BATCHED, *SEQUENTIAL]))
def test_a_guidance_difference_is_broadcast_around_a_compiled_model(name, policy, load) -> None:
    """Half of a call with both branches is a shape of its own; an unconditional call of its own does not happen."""
    pipeline = load(name)
    with pabtune.broadcast(pipeline, policy(name)) as active:
        expected = run(pipeline, name)
    calls = [(each.step, each.branch, each.is_halved) for each in active.records]
    shapes = graphs_without_a_policy(load(name), name, compile_whole)
    counter = compile_whole(pipeline)
    with pabtune.broadcast(pipeline, policy(name)) as active:
        assert (run(pipeline, name) == expected).all()
        assert [(each.step, each.branch, each.is_halved) for each in active.records] == calls
        compiled = counter.frame_count
        assert compiled <= active.patterns * shapes * CASES[name].inner_lengths * (2 if name in BATCHED else 1)
        assert (run(pipeline, name) == expected).all()
        assert counter.frame_count == compiled


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cogvideox-ddim", "wan-2.1"])
def test_generated_code_under_a_guidance_policy_differs_by_rounding_alone(name, load) -> None:
    """By torch's default backend with dynamic shapes; `cogvideox-ddim` has both branches in one call, `wan-2.1` does not."""
    pipeline = load(name)
    with pabtune.broadcast(pipeline, mixture(name)):
        expected = run(pipeline, name)
    pipeline.transformer.compile()
    with pabtune.broadcast(pipeline, mixture(name)):
        compiled = run(pipeline, name)
        assert abs(compiled - expected).max() < 1e-5 * abs(expected).max()
        assert (run(pipeline, name) == compiled).all()
    assert (compiled != run(pipeline, name)).any()


@pytest.mark.slow
def test_calls_outside_of_the_policy_compile_nothing_again(load) -> None:
    """Counts that were left on the hooks were guards of the graph: each such call compiled another one, up to an error."""
    pipeline = load("wan-2.1")
    other = type(pipeline)(**pipeline.components)
    counter = compile_whole(pipeline)
    with pabtune.broadcast(pipeline, policy("wan-2.1")):
        expected = run(pipeline, "wan-2.1")
        plain, compiled = run(other, "wan-2.1"), counter.frame_count
        for _ in range(2):
            assert (run(other, "wan-2.1") == plain).all()
            assert (run(pipeline, "wan-2.1") == expected).all()
        assert counter.frame_count == compiled


@pytest.mark.slow
def test_content_classes_leave_nothing_on_the_hooks_of_others(load) -> None:
    """Sites of other classes kept their counts: graphs were compiled in every call, up to an error."""
    pipeline, rule = load("wan-2.1"), Rule(kind="full", range=2, window=(1, 3))
    variants = {"one": (Rule(kind="block", range=2, window=(1, 3)),), "two": (rule,)}
    by_words = PromptClassifier(
        bias={"one": 0.0, "two": 0.0}, words={"one": {"cat": 9.0}, "two": {"dog": 9.0}}, margin=1.0
    )
    classes = Policy(name="classes", rules=(), variants=variants, classifier=by_words)
    counter = compile_whole(pipeline)
    with pabtune.broadcast(pipeline, classes, "auto"):
        frames = [run(pipeline, "wan-2.1", prompt=prompt) for prompt in ("a cat", "a dog")]
        compiled = counter.frame_count
        again = [run(pipeline, "wan-2.1", prompt=prompt) for prompt in ("a cat", "a cat", "a dog", "a dog")]
        assert all((one == frames[index // 2]).all() for index, one in enumerate(again))
        assert counter.frame_count == compiled


def test_range_one_compiles_once(load) -> None:
    pipeline = load("ltx")
    counter = CompileCounter()
    pipeline.transformer.compile(backend=counter, fullgraph=True, dynamic=False)
    with pabtune.broadcast(pipeline, idle("ltx")):
        run(pipeline, "ltx")
        run(pipeline, "ltx")
    assert counter.frame_count == 1
