"""FLOPs, memory and calls of the paper's models at full size, and the count against torch's own at small size."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pabtune.models.workloads import PAPER_RUNS
from pabtune.planning.costs.latency import Rates
from pabtune.planning.masks import resolve
from pabtune.planning.presets import MODEL_PRESETS, PRESETS, find_policy
from pabtune.records.errors import ModelError, PolicyError
from pabtune.records.interconnects import Interconnect
from pabtune.records.layouts import ParallelLayout
from pabtune.records.policies import Policy
from pabtune.records.rules import Rule
from pabtune.runtime.flops import count_on_meta
from pabtune.tuning.cost import Cost, Device, count_workload, predict_cost
from tests.conftest import make_transformer

pytestmark = pytest.mark.xdist_group("costs")  # which counts each model once

PAPER_SIZE = (51, 480, 854)


def paper(name: str, text_tokens: int, model: str = "open-sora-1.2") -> Cost:
    return predict_cost(count_workload(model, *PAPER_RUNS[model], text_tokens), find_policy(name, model))


@pytest.mark.parametrize(
    ("model", "name", "text_tokens", "tflops"),
    [
        ("open-sora-1.2", "none", 12, 3230.24),
        pytest.param("open-sora-1.2", "delta-dit", 18, 3166.47, marks=pytest.mark.slow),
        pytest.param("open-sora-1.2", "tgate", 18, 2818.40, marks=pytest.mark.slow),
        ("open-sora-1.2", "pab246", 12, 2657.70),
        ("open-sora-1.2", "pab357", 12, 2615.15),
        ("open-sora-1.2", "pab579", 12, 2558.25),
        ("latte", "none", 6, 3439.47),
        pytest.param("latte", "delta-dit", 12, 3437.33, marks=pytest.mark.slow),
        pytest.param("latte", "tgate", 12, 3059.02, marks=pytest.mark.slow),
        ("latte", "pab236", 6, 2767.22),
        ("latte", "pab347", 6, 2648.45),
        ("latte", "pab469", 6, 2576.77),
    ],
)
def test_the_papers_flops(model, name, text_tokens, tflops) -> None:
    """Prompts have as many tokens as those of the reference's scripts."""
    assert paper(name, text_tokens, model).flops.paper_tflops == pytest.approx(tflops, rel=1e-5)


@pytest.mark.parametrize(
    ("name", "text_tokens", "tflops"),
    [
        ("none", 6, 12032.40), pytest.param("delta-dit", 8, 12027.72, marks=pytest.mark.slow),
        ("pab246", 6, 9276.57), ("pab357", 6, 8899.32), ("pab579", 6, 8551.26),
    ],
)  # fmt: skip
def test_the_papers_flops_of_open_sora_plan(name, text_tokens, tflops) -> None:
    """0.48 TFLOPs of the decoder are unexplained."""
    found = paper(name, text_tokens, "open-sora-plan-1.1").flops.paper_tflops
    assert found - tflops == pytest.approx(0.477, abs=0.01)


@pytest.mark.parametrize(
    ("kind", "tflops"), [("spatial", 2785.32), ("temporal", 2843.24), ("cross", 2856.32), ("mlp", 2718.47)]
)
def test_each_part_left_out(kind, tflops) -> None:
    full = MODEL_PRESETS["open-sora-1.2"]["pab246"]
    rules = tuple(rule for rule in full.rules if rule.kind != kind)
    counted = count_workload("open-sora-1.2", PAPER_SIZE, 30, 12)
    found = predict_cost(counted, Policy(name="part", rules=rules, made_for=full.made_for))
    assert found.flops.paper_tflops == pytest.approx(tflops, rel=1e-5)


def test_all_products_are_more_than_the_paper_counts() -> None:
    assert paper("none", 12).flops.total_tflops == pytest.approx(3528.24, rel=1e-5)
    assert paper("pab246", 12).flops.total_tflops == pytest.approx(2865.56, rel=1e-5)
    flops = paper("none", 12).flops
    assert sum(flops.per_kind.values()) < flops.transformer_tflops
    assert flops.transformer_tflops + sum(flops.parts.values()) == pytest.approx(flops.total_tflops)


def test_a_skipped_block_skips_what_is_in_it() -> None:
    found = paper("delta-dit", 18)
    assert found.broadcast_calls["mlp"] == 3 * 6 * 2
    assert set(found.computed_calls) == {"spatial", "temporal", "cross", "mlp"}
    per_step = paper("none", 18).flops.transformer_tflops / 30
    saved = paper("none", 18).flops.transformer_tflops - found.flops.transformer_tflops
    assert saved == pytest.approx(per_step * 3 * 6 / 28, rel=0.002)


def test_a_whole_call_that_is_broadcast_computes_and_sends_nothing() -> None:
    """Its output is held; a guidance difference, of half that size, saves half of the call."""
    counted, two = count_workload("shapes", (8, 24, 24), 30), ParallelLayout(sequence=2, axis="frames")
    full, output_bytes = predict_cost(counted, PRESETS["none"], layout=two), 2 * 4 * 8 * 24 * 24 * 4
    every_other = Policy(name="calls", rules=(Rule(kind="transformer", compute=tuple(range(0, 30, 2))),))
    half = predict_cost(counted, every_other, layout=two)
    assert half.flops.transformer_tflops == pytest.approx(full.flops.transformer_tflops / 2)
    assert half.everything.wire_bytes == full.everything.wire_bytes / 2
    assert sum(half.flops.per_kind.values()) == pytest.approx(sum(full.flops.per_kind.values()) / 2)
    assert (half.stored_bytes, half.peak_stored_bytes) == (output_bytes, output_bytes)
    assert half.computed_calls["transformer"] == 15
    guidance = Policy(name="guidance", rules=(Rule(kind="guidance", compute=tuple(range(0, 30, 2))),))
    quarter = predict_cost(counted, guidance)
    assert quarter.flops.transformer_tflops == pytest.approx(full.flops.transformer_tflops * 3 / 4)
    assert quarter.peak_stored_bytes == output_bytes / 2


def test_a_run_of_fewer_steps_is_told_by_its_ratio() -> None:
    with pytest.raises(PolicyError, match=r"a run of 15 steps, each computed in full: 50\.0% of a run of 30"):
        predict_cost(count_workload("shapes", (8, 24, 24), 30), Policy(name="steps:15", steps=15))


def test_memory_is_that_of_the_outputs() -> None:
    state = 2 * 15 * 1590 * 1152 * 2
    only = Policy(name="one", rules=(Rule(kind="spatial", range=2, window=(4, 20), layers=(0, 1)),))
    counted = count_workload("open-sora-1.2", PAPER_SIZE, 30, 12)
    assert predict_cost(counted, only).stored_bytes == pytest.approx(2 * state)
    assert predict_cost(counted, PRESETS["none"]).peak_stored_bytes == 0


@pytest.mark.parametrize("model", ["latte", "open-sora-plan-1.1"])
def test_latte_and_open_sora_plan_are_counted(model) -> None:
    counted = count_workload(model, *PAPER_RUNS[model])
    assert counted.workload.schedule.steps == {"latte": 50, "open-sora-plan-1.1": 159}[model]
    full = predict_cost(counted, PRESETS["none"]).flops.total_tflops
    for name, policy in MODEL_PRESETS[model].items():
        assert predict_cost(counted, policy).flops.total_tflops < full, name


SLOW_BETWEEN = Device(
    rates=Rates(
        overall=100e12, rest=1e9, kinds={"spatial": 100e12, "temporal": 100e12, "cross": 100e12, "mlp": 100e12}
    ),
    interconnect=Interconnect(name="fast", latency_s=0.0, bytes_per_second=1e30),
)
"""What lies between sites takes its time, though hardly any FLOPs."""


def test_what_runs_outside_the_transformer_computes_at_the_overall_rate() -> None:
    """Not at that of what lies between the sites."""
    found = predict_cost(count_workload("open-sora-1.2", PAPER_SIZE, 30, 12), PRESETS["none"], device=SLOW_BETWEEN)
    flops = found.flops
    between = flops.transformer_tflops - sum(flops.per_kind.values())
    expected = (sum(flops.per_kind.values()) + sum(flops.parts.values())) / 100 + between * 1e3
    assert found.latency.seconds == pytest.approx(expected)


def frames_over(gpus: int) -> ParallelLayout:
    return ParallelLayout(sequence=gpus).along("frames")


def test_padded_frames_are_computed_and_text_is_encoded_by_all() -> None:
    counted = count_workload("open-sora-1.2", PAPER_SIZE, 30, 12)
    device = replace(SLOW_BETWEEN, rates=Rates.even(100e12))
    frames, flops = counted.workload.frames, predict_cost(counted, PRESETS["none"]).flops
    assert frames == 15
    text = flops.parts["text_encoder"] / 100
    for gpus, busiest in ((1, 15), (2, 8), (4, 4), (8, 2), (16, 1)):
        seconds = predict_cost(counted, PRESETS["none"], layout=frames_over(gpus), device=device).latency.seconds
        decoder = flops.parts["vae_decoder"] / 100 / gpus
        assert seconds == pytest.approx(flops.transformer_tflops / 100 * busiest / 15 + decoder + text), gpus
    halves = predict_cost(
        counted, PRESETS["none"], layout=ParallelLayout(branches=2, sequence=2, axis="frames"), device=device
    ).latency.seconds
    decoder = flops.parts["vae_decoder"] / 100 / 4
    assert halves == pytest.approx(flops.transformer_tflops / 100 * 8 / 15 / 2 + decoder + text)


@pytest.mark.parametrize(("name", "share"), [("pab246", 0.0), ("pab357", 0.088), ("pab579", 0.067)])
def test_keeping_a_layout_between_layers_would_save_little(name, share) -> None:
    """One of two messages of a temporal attention that computes beside a spatial one that is broadcast."""
    counted, policy = count_workload("open-sora-1.2", PAPER_SIZE, 30, 12), find_policy(name, "open-sora-1.2")
    mask = resolve(policy, counted.target.under(policy, None).sites, counted.workload.schedule).inside_blocks()
    spatial, temporal = (
        np.array([row for site, row in zip(mask.sites, mask.compute, strict=True) if site.kind == kind])
        for kind in ("spatial", "temporal")
    )
    assert (temporal & ~spatial).sum() / (2 * temporal.sum()) == pytest.approx(share, abs=0.001)


def test_an_unknown_model_is_refused() -> None:
    with pytest.raises(
        ModelError, match="no workload is known for 'sora'; known: open-sora-1.2, shapes, latte, open-sora-plan-1.1"
    ):
        count_workload("sora", PAPER_SIZE, 30)


@torch.no_grad()
def test_the_count_on_meta_is_torchs_own_on_the_real_module() -> None:
    """On the CPU, with attention in plain products, which torch counts in full."""
    shapes = {"hidden_states": (2, 4, 33, 24, 20), "timestep": (2,), "encoder_hidden_states": (2, 24, 16)}
    transformer = make_transformer()
    with FlopCounterMode(display=False) as mode, torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        transformer(**{name: torch.randn(shape) for name, shape in shapes.items()})
    on_meta = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    target, count = count_on_meta(transformer.to("meta"), on_meta)
    assert count.total == mode.get_total_flops()
    assert len(count.sites) == len(target.sites)
    assert 0 < count.scores == sum(count.site_scores) < count.total


def test_whole_calls_and_guidance_differences_of_a_published_model() -> None:
    counted = count_workload("open-sora-1.2", PAPER_SIZE, 30, 12)
    layout = ParallelLayout.over(2, axis="frames")
    full = predict_cost(counted, PRESETS["none"], layout=layout)
    output = counted.workload.output_bytes
    for kind, share, held in (("transformer", 1.0, output), ("guidance", 0.5, output / 2)):
        policy = Policy(name=kind, rules=(Rule(kind=kind, range=2, window=(1, 30)),))
        found = predict_cost(counted, policy, layout=layout)
        left = 1 - share * found.broadcast_calls[kind] / 30
        assert found.flops.transformer_tflops == pytest.approx(full.flops.transformer_tflops * left)
        assert sum(found.flops.per_kind.values()) == pytest.approx(sum(full.flops.per_kind.values()) * left)
        assert found.everything.wire_bytes == pytest.approx(full.everything.wire_bytes * left, rel=1e-6)
        assert found.peak_stored_bytes == pytest.approx(held)
