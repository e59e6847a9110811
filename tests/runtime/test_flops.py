import pytest

from pabtune.records.errors import ModelError
from pabtune.records.policies import Policy
from pabtune.records.prompts import Prompt
from pabtune.records.rules import Rule
from pabtune.runtime.flops import CallFlops, computed_fraction, count_flops
from pabtune.runtime.targets import Target
from pabtune.tuning.evaluate import evaluate
from tests.conftest import draw
from tests.pipelines.cases import CASES, run
from tests.pipelines.parts import PROMPT


def test_sites_are_counted_exactly(pipeline) -> None:
    target = Target.of(pipeline)
    count = count_flops(target, lambda: draw(pipeline, num_inference_steps=3))
    D, T, S, L, B, h = 24, 8, 36, 24, 2, 2
    N = T * S
    for site, flops in zip(target.sites, count.sites, strict=True):
        expected = {
            "spatial": 8 * B * N * D * D + 4 * B * N * S * D,
            "temporal": 8 * B * N * D * D + 4 * B * N * T * D,
            "cross": 4 * B * N * D * D + 4 * B * L * D * D + 4 * B * N * L * D,
            "mlp": 16 * B * N * D * D,
        }[site.kind]
        assert flops == expected, site.name
    assert sum(count.sites) < count.total < 1.5 * sum(count.sites)
    assert h == pipeline.transformer.config.num_heads


@pytest.mark.filterwarnings("ignore")
def test_a_second_transformer_counts_in_the_steps_that_it_runs() -> None:
    """Wan 2.2: the first expert takes three of six steps, the second the others; both are of one size."""
    case = CASES["wan-2.2"]
    pipeline = case.build()
    pipeline.set_progress_bar_config(disable=True)
    count = count_flops(Target.of(pipeline), lambda: run(pipeline, "wan-2.2"))
    sites = Target.of(pipeline).sites
    first = [flops for site, flops in zip(sites, count.sites, strict=True) if site.transformer == "transformer"]
    second = [flops for site, flops in zip(sites, count.sites, strict=True) if site.transformer == "transformer_2"]
    assert first == second
    assert min(first) > 0
    assert sum(first) < count.total < 3 * sum(first)
    rule = Rule(kind="mlp", range=99, window=(1, 6))
    prompt = Prompt(prompt=PROMPT, seed=0)
    arguments = {key: value for key, value in case.call.items() if key not in ("num_inference_steps", "output_type")}
    evaluation = evaluate(
        pipeline, [Policy(name="mlp", rules=(rule,))], [prompt], 6, score="none", arguments=arguments
    )[0]
    # Four of six steps broadcast: each expert computes in its first.
    assert evaluation.broadcast_calls == {"mlp": 2 * 2 * 4}
    mlp = sum(flops for site, flops in zip(sites, count.sites, strict=True) if site.kind == "mlp") / 2
    assert evaluation.compute_fraction == pytest.approx(1 - 4 * mlp / (6 * count.total), rel=1e-6)


def test_runs_with_other_calls_are_not_compared() -> None:
    with pytest.raises(ModelError, match="calls the transformers 1 times, with one 0 times"):
        computed_fraction([CallFlops(total=1, sites=())], [])
