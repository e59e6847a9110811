import pytest

from pabtune.catalog import CATALOG, ModelCard
from pabtune.catalog.card import sites_in
from pabtune.planning.presets import PRESETS
from pabtune.records.errors import BudgetError, PolicyError, PromptError
from pabtune.records.policies import Policy
from pabtune.records.rules import Rule
from pabtune.tuning.evaluate import evaluate
from tests.conftest import PROMPTS, STEPS, pyramid


def test_no_policy_costs_and_gains_nothing_and_a_policy_is_told_apart(pipeline) -> None:
    videos = {}
    none, accelerated = evaluate(
        pipeline, [PRESETS["none"], pyramid()], PROMPTS, STEPS, batch_size=2,
        on_videos=lambda name, batch, made: videos.setdefault(name, []).extend(made),
    )  # fmt: skip
    assert none.compute_fraction == 1.0
    assert set(none.psnr_db) == {100.0}
    assert set(none.drops) == {0.0}
    assert not none.broadcast_calls
    assert accelerated.compute_fraction < 1.0
    assert max(accelerated.psnr_db) < 100.0
    sites = {"spatial": 2, "temporal": 2, "cross": 4, "mlp": 4}
    for kind, count in sites.items():
        computed, broadcast = accelerated.computed_calls[kind], accelerated.broadcast_calls.get(kind, 0)
        assert computed + broadcast == count * STEPS
    assert {name: len(made) for name, made in videos.items()} == {"reference": 4, "none": 4, "pyramid": 4}


def test_compute_fraction_is_flops_over_flops(pipeline) -> None:
    everything = Policy(
        name="all",
        rules=tuple(Rule(kind=kind, range=99, window=(1, STEPS)) for kind in ("spatial", "temporal", "cross", "mlp")),
    )
    evaluation = evaluate(pipeline, [everything], PROMPTS[:1], STEPS)[0]
    assert 1 / STEPS < evaluation.compute_fraction < 1 / STEPS + 0.1


def test_variants_are_chosen_by_the_prompts_content(pipeline) -> None:
    rule = Rule(kind="mlp", range=99, window=(1, STEPS))
    policy = Policy(name="v", variants={"slow": (rule,)})
    slow, others = PROMPTS[0], PROMPTS[1]
    assert evaluate(pipeline, [policy], [slow], STEPS)[0].broadcast_calls == {"mlp": 4 * (STEPS - 1)}
    assert evaluate(pipeline, [policy], [others], STEPS)[0].broadcast_calls == {}


def test_a_catalog_says_what_is_broadcast(pipeline) -> None:
    card = ModelCard(transformer="STDiT3Transformer3DModel", sites=sites_in("spatial_blocks", mlp="mlp"))
    policy = Policy(name="mlp", rules=(Rule(kind="mlp", range=99, window=(1, STEPS)),))
    found = evaluate(pipeline, [policy], PROMPTS[:1], STEPS, catalog=CATALOG.with_card(card))[0]
    assert found.broadcast_calls == {"mlp": 2 * (STEPS - 1)}


def test_wrong_requests_are_refused(pipeline) -> None:
    with pytest.raises(PromptError, match="at least one prompt"):
        evaluate(pipeline, [pyramid()], [], STEPS)
    with pytest.raises(BudgetError, match="unknown score 'beauty'"):
        evaluate(pipeline, [pyramid()], PROMPTS, STEPS, score="beauty")
    with pytest.raises(PolicyError, match="no 'full' sites"):
        evaluate(pipeline, [Policy(name="p", rules=(Rule(kind="full", range=2, window=(1, 2)),))], PROMPTS, STEPS)


def test_policies_with_blocks_are_evaluated(pipeline) -> None:
    blocks = Policy(name="blocks", rules=(Rule(kind="block", range=2, window=(1, STEPS)),))
    found = evaluate(pipeline, [blocks], PROMPTS[:2], STEPS, batch_size=2)[0]
    assert set(found.broadcast_calls) == {"block"}
    assert 0.4 < found.compute_fraction < 0.65  # every second step, and what is outside of blocks
