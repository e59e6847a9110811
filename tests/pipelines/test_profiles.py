"""Profiles of real pipelines: every one can be measured, and what is measured is what was called."""

import warnings
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
from diffusers import FlowMatchHeunDiscreteScheduler

import pabtune
from pabtune.catalog import CATALOG
from pabtune.planning.costs.compute import compute_fraction
from pabtune.planning.costs.memory import held_bytes
from pabtune.planning.costs.profiled import cost_of_profile
from pabtune.planning.masks import resolve
from pabtune.planning.schedules import NoiseSchedule
from pabtune.planning.windows import ranking_of
from pabtune.records.errors import PabtuneWarning
from pabtune.records.interconnects import INTERCONNECTS
from pabtune.records.policies import Policy
from pabtune.records.prompts import Prompt
from pabtune.records.rules import Rule
from pabtune.tuning.judging import evaluate_unseen
from tests.pipelines.cases import CASES, cases, policy, run

FAST = [
    "wan-2.2", "latte", "open-sora-plan-1.1", "chronoedit-reasoning", "ltx-2.3", "skyreels-v2-forcing-long",
    "skyreels-v2-forcing-asynchronous", "cogvideox-ddim",
]  # fmt: skip
CHANGING = ("chronoedit-reasoning", "skyreels-v2-forcing-long", "skyreels-v2-forcing-asynchronous")
"""The length of their videos changes from step to step."""
pytestmark = pytest.mark.filterwarnings("ignore")


def arguments_of(name: str) -> dict:
    given = ("num_inference_steps", "output_type")
    return {key: value for key, value in CASES[name].call.items() if key not in given}


def profile_of(pipeline, name: str) -> pabtune.Profile:
    steps = CASES[name].call["num_inference_steps"]
    return pabtune.profile(pipeline, ["a cat"], steps, batch_size=1, arguments=arguments_of(name))


@pytest.mark.parametrize("name", cases(FAST, [name for name, case in CASES.items() if case.takes_prompt]))
def test_every_pipeline_can_be_profiled(name, load, tmp_path) -> None:
    pipeline = load(name)
    if name == "allegro":
        pipeline.vae.enable_tiling()  # it decodes in no other way
    profile = profile_of(pipeline, name)
    called, change = profile.arrays["seconds"] > 0, profile.arrays["change"][0].mean(0)
    assert called.any(axis=1).all()
    assert (np.nan_to_num(profile.arrays["change"][..., 0]) == 0).all()
    # What was called in two steps that follow each other can be compared, if it kept its shape.
    both = called[:, 1:] & called[:, :-1]
    if name not in CHANGING and len(profile.branches) < 3:
        assert np.isfinite(change[:, 1:][both]).all()
    assert all(np.isfinite(row.change) for row in ranking_of(profile))
    profile.save(tmp_path / "p.json")
    assert pabtune.Profile.load(tmp_path / "p.json").digest == profile.digest
    assert profile.call.per_step == len({branch for _, branch in CASES[name].branches}) or name in CHANGING


def test_two_steps_of_two_transformers_leave_nothing_to_compare(load) -> None:
    profile = pabtune.profile(
        load("wan-2.2"), ["a cat"], 2, arguments={**arguments_of("wan-2.2"), "guidance_scale": 1.0}
    )
    assert np.isnan(profile.arrays["change"][..., 1]).all()
    assert profile.call.samples == profile.call.per_step == 1


def brightness(video, prompt) -> float:
    return float(video.mean()) / 2.55


def test_what_is_predicted_of_two_transformers_is_what_runs(load) -> None:
    """The second one computes everything in its first step, and the first one then holds nothing any more."""
    pipeline = load("wan-2.2")
    profile, every_kind = profile_of(pipeline, "wan-2.2"), policy("wan-2.2")
    schedule = NoiseSchedule(steps=profile.steps, sigmas=profile.made_for.sigmas)
    planned = resolve(every_kind, profile.sites, schedule)
    runs = planned.where_called(profile.arrays["seconds"] > 0)
    with pabtune.broadcast(pipeline, every_kind) as handle:
        run(pipeline, "wan-2.2")
    summary, branches = handle.summary(), len(profile.branches)
    for computed, name in ((True, "computed_calls"), (False, "broadcast_calls")):
        assert {kind: branches * calls for kind, calls in runs.calls(computed=computed).items()} == summary[name]
    calls = profile.call.per_step
    assert held_bytes(runs, profile.site_bytes, calls=calls).max() == summary["most_stored_bytes"]
    assert held_bytes(planned, profile.site_bytes).max() > summary["most_stored_bytes"]
    saved = sum(
        flops * skipped for flops, skipped in zip(profile.site_flops, runs.broadcasts.sum(1).tolist(), strict=True)
    )
    fraction = compute_fraction(runs, profile.site_flops, profile.total_flops)
    assert fraction == pytest.approx(1 - saved / (profile.total_flops * profile.steps))


SIZES = ("cogvideox-i2v", "wan-2.1-image", "open-sora-1.2", "ltx-2", "chronoedit-reasoning")
"""Fewer channels put out than taken; twice; more; sound besides; another length of video on the way."""


@pytest.mark.parametrize("name", SIZES)
def test_what_whole_calls_and_guidance_differences_hold_is_predicted(name, load) -> None:
    """Outputs were taken to be as large as the input, and a number in 8 bits to have no scale beside it."""
    pipeline, steps = load(name), CASES[name].call["num_inference_steps"]
    profile = profile_of(pipeline, name)
    for kind, store in product(("transformer", "guidance"), ("exact", "int8")):
        rule = Rule(kind=kind, range=2, window=(1, steps))
        held = Policy(name="held", rules=(rule,), store=store)
        with pabtune.broadcast(pipeline, held) as handle:
            run(pipeline, name, prompt="a cat")
        peak = cost_of_profile(profile, held, None, (1,), None, INTERCONNECTS["nvlink"]).peak
        assert peak.stored_bytes == handle.summary()["most_stored_bytes"]


def test_the_largest_outputs_count_where_the_video_changes_its_length(load) -> None:
    """Of each site the last output counted, whose video was shorter."""
    name, pipeline = "chronoedit-reasoning", load("chronoedit-reasoning")
    profile, every_kind = profile_of(pipeline, name), policy(name)
    mask = resolve(every_kind, profile.sites, NoiseSchedule(steps=profile.steps, sigmas=profile.made_for.sigmas))
    with pabtune.broadcast(pipeline, every_kind) as handle:
        run(pipeline, name)
    predicted = held_bytes(mask, profile.site_bytes, calls=profile.call.per_step).max()
    assert predicted >= handle.summary()["most_stored_bytes"]


def test_a_model_without_the_papers_kinds_is_searched_without_its_floor(load, tmp_path) -> None:
    pipeline = load("wan-2.1")
    settings = {"height": 16, "width": 16, "num_frames": 5, "max_sequence_length": 16}
    profile = pabtune.profile(pipeline, ["a cat"], 6, batch_size=1, arguments=settings)
    result = pabtune.search(
        pipeline, profile, [f"cat {number}" for number in range(12)], "tests.pipelines.test_profiles:brightness>=-100",
        trials=1, folder=tmp_path,
    )  # fmt: skip
    assert result.candidates[0].outcome.measured.under_floor_db is None


@pytest.mark.filterwarnings("ignore")
def test_steps_that_a_scheduler_makes_more_of_are_those_that_were_asked_for(load) -> None:
    """Heun and PNDM: judging asked for as many steps as there were calls, and fewer steps were refused."""
    pipeline = load("wan-2.1")
    pipeline.scheduler = FlowMatchHeunDiscreteScheduler()
    arguments = arguments_of("wan-2.1")
    profile = pabtune.profile(pipeline, ["a cat"], 5, batch_size=1, arguments=arguments)
    assert (profile.steps, profile.asked_steps, len(profile.made_for.sigmas)) == (9, 5, 9)
    request = SimpleNamespace(
        score=None, budget=SimpleNamespace(score="none"), floor=None, batch_size=1, arguments=arguments, catalog=CATALOG,
        known_calls={},
    )  # fmt: skip
    made = Policy(name="made", rules=(Rule(kind="mlp", range=2, window=(1, 8)),), made_for=profile.made_for)
    fewer = Policy(name="steps:3", steps=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error", PabtuneWarning)  # nothing is carried to another number of steps
        found = evaluate_unseen(
            pipeline, [made, fewer], [Prompt(prompt="a cat", content="any", seed=0)], profile, request
        )
    assert [each.compute_fraction for each in found][1] == pytest.approx(5 / 9)
