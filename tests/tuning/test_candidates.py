import pytest

from pabtune.planning.presets import PRESETS
from pabtune.quality.budget import Budget
from pabtune.records.interconnects import Interconnect
from pabtune.records.layouts import ONE_GPU, ParallelLayout
from pabtune.records.policies import Policy, Rule
from pabtune.records.prompts import Prompt
from pabtune.runtime.engine import broadcast
from pabtune.runtime.targets import Target
from pabtune.tuning.candidates import Bench
from pabtune.tuning.generation import Settings, generate
from pabtune.tuning.references import References
from pabtune.tuning.space import Space
from tests.conftest import PROMPT, STEPS, make_pipeline

PROMPTS = [Prompt(prompt=PROMPT, content=content, seed=seed) for seed in range(4) for content in ("slow", "still")]


@pytest.fixture
def bench(profile, tmp_path) -> Bench:
    pipeline, settings = make_pipeline(), Settings(steps=STEPS, batch_size=2)
    references = References(tmp_path, pipeline, settings, profile.made_for)
    budget = Budget(score="shapes", largest_drop=50.0)
    return Bench(pipeline, profile, Space(profile), PROMPTS, budget, settings, references)


def test_no_broadcast_costs_nothing_and_is_feasible(bench) -> None:
    outcome = bench.try_out(PRESETS["none"])
    assert outcome.is_complete
    assert outcome.is_feasible
    assert (outcome.predicted_time, outcome.compute_fraction, outcome.psnr_db, outcome.drop) == (1.0, 1.0, 100.0, 0.0)
    assert outcome.prompts == len(PROMPTS)


def test_a_candidate_under_the_floor_is_given_up_early(bench) -> None:
    careful = Policy(name="careful", rules=(Rule(kind="cross", range=2, window=(6, 8)),))
    reckless = Policy(name="reckless", rules=tuple(Rule(kind=k, range=9, window=(1, 8)) for k in ("spatial", "mlp")))
    floor = bench.set_floor(careful)
    assert floor > 20
    outcome = bench.try_out(reckless)
    assert not outcome.is_complete
    assert outcome.under_floor_db > 0
    assert not outcome.is_feasible
    assert bench.try_out(careful).is_feasible


def test_a_slow_candidate_is_given_up_early(bench) -> None:
    slow = Policy(name="slow", rules=(Rule(kind="cross", range=2, window=(6, 8)),))
    assert bench.predicted_time(slow) < 1.0
    outcome = bench.try_out(slow, time_to_beat=0.1)
    assert not outcome.is_complete
    assert outcome.prompts == 2


def test_a_candidate_over_the_limit_of_memory_is_not_run(profile, tmp_path) -> None:
    pipeline, settings = make_pipeline(), Settings(steps=STEPS, batch_size=2)
    references = References(tmp_path, pipeline, settings, profile.made_for)
    budget = Budget(score="shapes", largest_drop=50.0)
    policy = Policy(name="p", rules=(Rule(kind="mlp", range=2, window=(2, 8)),))
    target = Target.of(pipeline)
    mlp = sum(count for site, count in zip(target.sites, profile.site_bytes, strict=True) if site.kind == "mlp")
    for memory, is_possible in ((2 * mlp, True), (2 * mlp - 1, False)):
        bench = Bench(pipeline, profile, Space(profile), PROMPTS, budget, settings, references, memory)
        outcome = bench.try_out(policy)
        assert outcome.is_possible == is_possible
        assert (outcome.prompts > 0) == is_possible
    with broadcast(pipeline, policy) as run:
        generate(pipeline, PROMPTS[:2], settings)
    assert run.summary()["most_stored_bytes"] == 2 * mlp


def test_what_is_worth_most_on_one_gpu_is_not_on_eight(profile, tmp_path) -> None:
    """On a slow link, eight GPUs wait for the attention that exchanges, whatever else costs."""
    pipeline, settings = make_pipeline(), Settings(steps=STEPS, batch_size=2)
    references = References(tmp_path, pipeline, settings, profile.made_for)
    budget = Budget(score="shapes", largest_drop=50.0)
    link = Interconnect(name="slow", latency_s=0.0, bytes_per_second=1e6)
    attention, others = (
        Policy(name="p", rules=tuple(Rule(kind=kind, range=number, window=(1, 7)) for kind in kinds))
        for kinds, number in ((("spatial", "temporal"), 2), (("cross", "mlp"), 6))
    )
    predicted = []
    for layout in (ONE_GPU, ParallelLayout(sequence=8)):
        rest = (pipeline, profile, Space(profile), PROMPTS, budget, settings, references, None, layout, link)
        predicted.append([Bench(*rest).predicted_time(policy) for policy in (others, attention)])
    assert predicted[0][0] < predicted[0][1] < 1
    assert predicted[1][1] < predicted[1][0] < 1
