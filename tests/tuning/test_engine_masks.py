"""Searching what an engine can run: the masks, the space, and a whole small search."""

import random
from dataclasses import replace
from itertools import compress

import numpy as np
import pytest

from pabtune.engines.engine import ENGINES, find_engine
from pabtune.engines.exports import export
from pabtune.engines.step_masks import line_factors
from pabtune.planning.scm import TEMPLATES, preset_mask
from pabtune.quality.fidelity import psnr_db
from pabtune.records.errors import ModelError, PolicyError, ProfileError, StudyError
from pabtune.records.policies import Policy
from pabtune.records.schedules import Schedule, load_schedules, save_schedules
from pabtune.runtime.engine import broadcast
from pabtune.tuning.engine_masks import EngineMasks
from pabtune.tuning.generation import generate
from pabtune.tuning.schedules import find_schedules
from pabtune.tuning.search import search_policy
from pabtune.tuning.space import Space
from pabtune.tuning.trajectories import surrogate_of
from tests.conftest import PROMPTS, STEPS, make_pipeline
from tests.engines.policies import BEHIND_THE_FIRST, made_for
from tests.tuning.conftest import SETTINGS
from tests.tuning.test_request import config
from tests.tuning.test_search import SPLIT

pytestmark = pytest.mark.filterwarnings("ignore:STDiT3Transformer3DModel was not run in")
CACHE_DIT, DIFFUSERS = find_engine("cache-dit"), find_engine("diffusers")


def test_an_engine_holds_all_blocks_or_all_behind_the_first_of_each_list(profile) -> None:
    assert EngineMasks.of(DIFFUSERS, profile.sites).layers is None
    layers = sorted({site.layer for site in profile.sites})
    assert EngineMasks.of(CACHE_DIT, profile.sites).layers == tuple(layers[1:])
    with pytest.raises(ModelError, match="cache-dit holds all blocks but the first, and the model has no other"):
        EngineMasks.of(CACHE_DIT, [site for site in profile.sites if site.layer == 0])
    with pytest.raises(ModelError, match="diffusers holds blocks, but the model has none that are known"):
        EngineMasks.of(DIFFUSERS, [replace(site, block=None) for site in profile.sites])


@pytest.mark.parametrize("seed", range(30))
def test_what_is_searched_for_cache_dit_is_exported_without_a_loss(seed) -> None:
    rng = random.Random(seed)
    computed = tuple(compress(range(10), [True, *(rng.random() < 0.5 for _ in range(8)), seed % 2 == 0]))
    factors = line_factors(computed, 10) if seed % 3 else ((),) * 10
    schedule = Schedule(
        kind="stack", layers=BEHIND_THE_FIRST, computed=computed, factors=factors, psnr_db=0, tail_psnr_db=0
    )
    exported = export(schedule.policy("searched", made_for()), "cache-dit")
    assert exported.losses == ()
    assert exported.masks[0].computed_steps == computed


def test_a_line_begins_where_taylorseer_has_two_outputs_behind_its_third_step() -> None:
    assert line_factors((0, 1, 4, 7), 9) == ((), (), (), (), (), (1 / 3,), (2 / 3,), (), (1 / 3,))
    # from step 4 on another transformer, whose steps are counted from there
    assert line_factors((0, 1, 3, 5, 7), 10, takeovers={4}) == ((),) * 8 + ((1 / 2,), (2 / 2,))


@pytest.mark.parametrize("engine", [CACHE_DIT, DIFFUSERS], ids=lambda each: each.name)
def test_masks_are_those_that_run_and_what_is_told_of_them_is_measured(engine, profile, runs, tmp_path) -> None:
    pipeline, unit = make_pipeline(), EngineMasks.of(engine, profile.sites)
    schedules = find_schedules(pipeline, [PROMPTS[:2]], SETTINGS, shares=(0.75, 0.5), runs=runs[:1], unit=unit)
    assert [len(each.computed) for each in schedules] == [6, 4]
    assert {(each.kind, each.layers) for each in schedules} == {("stack", unit.layers)}
    if not engine.takes_line:
        assert {each.rule.payload for each in schedules} == {"hold"}
    policy = schedules[1].policy("mask", profile.made_for)
    with broadcast(pipeline, policy, any_steps=True):
        videos = generate(pipeline, PROMPTS[:2], SETTINGS).videos
    close = [psnr_db(*pair) for pair in zip(videos, runs[0].generation.videos, strict=True)]
    assert (schedules[1].psnr_db, schedules[1].tail_psnr_db) == pytest.approx((np.mean(close), min(close)))
    save_schedules(tmp_path / "schedules.json", schedules)
    assert load_schedules(tmp_path / "schedules.json") == schedules


def test_the_mask_that_is_taken_is_the_closest_of_those_that_ran(profile, runs) -> None:
    pipeline, unit = make_pipeline(), EngineMasks.of(CACHE_DIT, profile.sites)
    surrogate = surrogate_of(runs[:1], [{3: [1.0, 1.0]}])
    drafts = unit.drafts([surrogate], [5], seed=0)[5]
    assert {bool(draft.factors and any(draft.factors)) for draft in drafts} == {True, False}
    assert [draft.objective for draft in drafts] == sorted(draft.objective for draft in drafts)
    fitted = [unit.fit(pipeline, None, runs[:1], SETTINGS, draft)[0] for draft in drafts]
    (found,) = find_schedules(pipeline, [PROMPTS[:2]], SETTINGS, shares=(5 / STEPS,), runs=runs[:1], unit=unit)
    assert found.closeness == max(each.closeness for each in fitted)


def test_an_engine_of_presets_gets_its_presets_alone(profile, runs) -> None:
    drafts = EngineMasks.of(find_engine("vllm-omni"), profile.sites).drafts([surrogate_of(runs, [{}, {}])], [7, 3], 0)
    presets = {tuple(np.flatnonzero(preset_mask(preset, STEPS)).tolist()) for preset in TEMPLATES}
    assert {draft.computed for each in drafts.values() for draft in each} == presets
    assert all(len(draft.computed) == count for count, each in drafts.items() for draft in each)


def test_the_space_has_what_the_engine_has(profile) -> None:
    schedule = Schedule(kind="stack", computed=(0, 2), factors=(), psnr_db=0, tail_psnr_db=0)
    masks = Space(profile, schedules=[schedule], has_guidance=True, engine=DIFFUSERS)
    assert ([each.name for each in masks.parameters()], masks.policies) == (["schedule"], 2)
    assert dict(masks.first_trials()) == {"no broadcast": {"schedule": 0}, f"2 of {STEPS} steps": {"schedule": 1}}
    assert masks.policy({"schedule": 1}, "found").rules == (schedule.rule,)
    attention = Space(profile, has_guidance=True, engine=find_engine("videosys"))
    assert {each.name.partition(".")[0] for each in attention.parameters()} == {"spatial", "temporal", "cross"}
    assert attention.policies is None
    values = dict(attention.first_trials())["preset pab246"]
    assert {rule.anchor for rule in attention.policy(values, "found").rules} == {"start"}
    assert {"schedule", "anchor", "mlp.range"} <= {
        each.name for each in Space(profile, schedules=[schedule]).parameters()
    }


@pytest.fixture(scope="module")
def searched(profile, tmp_path_factory):
    folder = tmp_path_factory.mktemp("search")
    asked = replace(config(folder, trials=20), engine=CACHE_DIT, schedule_shares=(0.75, 0.5))
    return search_policy(make_pipeline(), profile, SPLIT, asked), asked


def test_a_search_for_an_engine_ends_with_what_it_runs(searched, profile) -> None:
    result, _ = searched
    assert [each.origin for each in result.candidates] == ["no broadcast", "4 of 8 steps", "6 of 8 steps"]
    (rule,) = result.best.rules
    assert (rule.kind, rule.layers) == ("stack", EngineMasks.of(CACHE_DIT, profile.sites).layers)
    assert result.best.provenance["engine"] == "cache-dit 1.5.3"
    made = export(result.best, "cache-dit")
    assert made.masks[0].computed_steps == rule.compute
    assert [loss.partition(":")[0] for loss in made.losses] == [
        "stack",
        "model",
    ]  # two lists that take turns, never run


@pytest.mark.slow
def test_another_engine_is_another_study(searched, profile) -> None:
    result, asked = searched
    other = search_policy(make_pipeline(), profile, SPLIT, replace(asked, engine=DIFFUSERS))
    assert other.study != result.study
    assert all(rule.layers is None for each in other.candidates for rule in each.policy.rules)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"store": "int8"}, "--for cache-dit: it has nothing like --store; leave that out"),
        ({"content": "slow"}, "--for cache-dit: it has nothing like --per-content; leave that out"),
    ],
)
def test_what_the_engine_has_not_is_refused(profile, tmp_path, changes, error) -> None:
    with pytest.raises(StudyError, match=error):
        search_policy(make_pipeline(), profile, SPLIT, replace(config(tmp_path), engine=CACHE_DIT, **changes))


def test_an_engine_with_one_mask_refuses_two_transformers(profile, tmp_path) -> None:
    sites = tuple(replace(site, transformer="transformer_2") if site.layer else site for site in profile.sites)
    two = replace(profile, sites=sites)
    asked = replace(config(tmp_path), engine=ENGINES["sglang"])
    with pytest.raises((StudyError, ProfileError), match="sglang has one mask for transformer and transformer_2"):
        search_policy(make_pipeline(), two, SPLIT, asked)


def test_an_engine_that_is_unknown_is_refused() -> None:
    with pytest.raises(PolicyError, match="unknown engine 'comfy'"):
        find_engine("comfy")


def test_a_whole_call_and_a_stack_are_rules_of_their_kinds() -> None:
    whole = Schedule(computed=(0, 2), factors=((), (), ()), psnr_db=0, tail_psnr_db=0)
    assert (whole.rule.kind, whole.rule.payload) == ("transformer", "scaled")
    held = replace(whole, kind="stack", layers=(1, 2))
    assert (held.rule.kind, held.rule.payload, held.rule.layers) == ("stack", "hold", (1, 2))
    assert Policy(name="line", rules=(replace(held, factors=((), (0.5,), ())).rule,)).rules[0].payload == "scaled"
