"""Rows of timelines, exactly; and that they are what the engine does."""

from dataclasses import replace

import numpy as np
import pytest

from pabtune.planning.presets import find_policy
from pabtune.planning.timelines import STATES, Row, Timeline, timeline_of
from pabtune.records.errors import PolicyError
from pabtune.records.policies import MadeFor, Policy
from pabtune.records.rules import Rule
from pabtune.records.sites import Site
from pabtune.runtime.engine import broadcast
from tests.conftest import draw, make_pipeline
from tests.records.test_profiles import make_profile

LETTERS = dict(zip(STATES, "ch_. ", strict=True))

EVERY_KIND = Policy(
    name="every kind",
    rules=(
        Rule(kind="transformer", compute=(0, 1, 2, 3, 5, 6, 7, 9, 10, 11), payload="linear", damping=0.7),
        Rule(kind="guidance", compute=(0, 1, 3, 7, 9)),
        Rule(kind="block", compute=(0, 1, 5, 6, 10), layers=(0,)),
        Rule(kind="spatial", range=3, window=(2, 11)),
        Rule(kind="temporal", compute=(0, 2, 8), layers=(1,)),
        Rule(kind="cross", compute=(0, 4, 9)),
        Rule(kind="mlp", compute=(0, 4, 9), layers=(0,)),
    ),
    made_for=MadeFor(steps=12),
)


def letters(row: Row) -> str:
    """c = compute, h = one guidance branch, _ = broadcast, . = not reached, blank = not called."""
    return "".join(LETTERS[state] for state in row.states)


def rows(timeline: Timeline) -> list[tuple[str, str, str]]:
    return [(row.kind, row.layers, letters(row)) for row in timeline.rows]


def test_every_kind_of_rule_has_its_rows() -> None:
    timeline = timeline_of(EVERY_KIND)
    assert rows(timeline) == [
        ("transformer", "", "cchc_hhc_chh"),
        ("guidance", "", "cc_c.__c.c__"),
        ("block", "layer 0", "cc__.hhc._hh"),
        ("spatial", "layer 0", "cc...hhc..hh"),
        ("spatial", "layers 1+", "cc__.hhc._hh"),
        ("temporal", "layer 1", "c_hc.___.c__"),
        ("cross", "layer 0", "c_...hhc..hh"),
        ("cross", "layers 1+", "c___.hhc.c__"),
        ("mlp", "layer 0", "c_...hhc..hh"),
    ]
    assert (timeline.called_steps, timeline.full_steps, timeline.site_call_share) == (10, 1, None)
    payloads = {row.kind: row.payload for row in timeline.rows}
    assert (payloads["transformer"].kind, payloads["transformer"].damping) == ("linear", 0.7)
    assert [row.computed for row in timeline.rows[:3]] == [7.5, 5, 5]


def test_the_picture_is_what_the_engine_does() -> None:
    pipeline = make_pipeline()
    with broadcast(pipeline, EVERY_KIND) as run:
        draw(pipeline, num_inference_steps=12)
    assert {record.branch for record in run.records} == {"cond+uncond"}
    rows_by_layer = {}
    for row in timeline_of(EVERY_KIND).rows:
        layers = {"layer 0": (0,), "layer 1": (1,), "layers 1+": (1,), "": (0,)}[row.layers]
        rows_by_layer.update({(row.kind, layer): row for layer in layers})
    compared = 0
    for record in run.records:
        for index, site in enumerate(run.mask.sites):
            row = rows_by_layer.get((site.kind, site.layer))
            if row is None:
                continue
            state = row.states[record.step]
            # A record says of sites inside the transformer what computed, and of calls whether they happened and in half.
            if site.kind == "transformer":
                expected = "broadcast" if record.computed is None else "half" if record.is_halved else "compute"
                assert state == expected
            elif site.kind == "guidance":
                assert (state == "broadcast") == record.is_halved
            else:
                is_computed = record.computed is not None and index in record.computed
                assert (state in ("compute", "half")) == is_computed, (site.name, record.step)
                assert (state == "half") == (is_computed and record.is_halved)
            compared += 1
    # Layer 1 has neither a row of blocks nor of MLPs, layer 0 none of temporal attention.
    shown = [site for site in run.mask.sites if (site.kind, site.layer) in rows_by_layer]
    assert compared == 12 * len(shown)
    assert {site.kind for site in shown} == {rule.kind for rule in EVERY_KIND.rules}


def test_a_stack_is_one_row_and_holds_what_is_inside() -> None:
    rules = (
        Rule(kind="stack", compute=(0, 3), layers=(0, 1)),
        Rule(kind="spatial", compute=(0, 1, 4), layers=(0, 1, 2)),
    )
    assert rows(timeline_of(Policy(name="p", rules=rules, made_for=MadeFor(steps=5)))) == [
        ("stack", "layers 0-1", "c__c_"), ("spatial", "layers 0-1", "c..c."), ("spatial", "layer 2", "cc__c"),
    ]  # fmt: skip


def test_layers_in_words() -> None:
    rule = Rule(kind="mlp", compute=(0,), layers=(0, 1, 2, 4, 7, 8))
    timeline = timeline_of(Policy(name="p", rules=(rule,)), steps=2)
    assert rows(timeline) == [("mlp", "layers 0-2, 4, 7-8", "c_")]


def test_whole_calls_by_name() -> None:
    timeline = timeline_of(find_policy("every:2:linear:0.7"), steps=9)
    assert rows(timeline) == [("transformer", "", "ccc_c_ccc")]
    assert timeline.site_call_share == pytest.approx(7 / 9)
    timeline = timeline_of(find_policy("steps:4"))
    assert rows(timeline) == [("transformer", "", "cccc")]
    assert (timeline.rows[0].payload, timeline.site_call_share, timeline.full_steps) == (None, 1.0, 4)
    half = timeline_of(Policy(name="g", rules=(Rule(kind="guidance", compute=(0, 1)),)), steps=4)
    assert rows(half) == [("transformer", "", "cchh"), ("guidance", "", "cc__")]
    assert half.site_call_share == 0.75


SIGMAS = (1.0, 0.9, 0.7, 0.4)


def test_noise_levels_are_the_policys_where_the_steps_agree() -> None:
    rule = Rule(kind="spatial", range=2, noise_window=(0.5, 0.95))
    policy = Policy(name="p", rules=(rule,), made_for=MadeFor(sigmas=SIGMAS))
    timeline = timeline_of(policy)
    assert (timeline.steps, timeline.noise_levels, timeline.is_assumed) == (4, SIGMAS, False)
    assert rows(timeline) == [("spatial", "all layers", "c_cc")]
    other = timeline_of(policy, steps=8)
    assert (other.noise_levels, other.is_assumed) == ((1.0, 0.95, 0.9, 0.8, 0.7, 0.55, 0.4, 0.2), True)
    assert rows(other) == [("spatial", "all layers", "cc_c_ccc")]


def test_noise_levels_that_nothing_needs_stay_unknown() -> None:
    assert timeline_of(find_policy("every:2")).noise_levels is None
    made_for = MadeFor(steps=4, sigmas=SIGMAS)
    counted = Policy(name="p", rules=(Rule(kind="transformer", count=2, first=1, last=1),), made_for=made_for)
    assert timeline_of(counted, steps=8).noise_levels is None
    assert timeline_of(find_policy("pab246"), steps=4).noise_levels == (1.0, 0.75, 0.5, 0.25)


def test_a_policy_of_other_steps_is_carried() -> None:
    rule = Rule(kind="spatial", compute=(0, 1, 3))
    policy = Policy(name="p", rules=(rule,), made_for=MadeFor(steps=4, sigmas=SIGMAS))
    assert not timeline_of(policy).is_carried
    carried = timeline_of(policy, steps=8)
    assert carried.is_carried
    assert rows(carried) == [("spatial", "all layers", "cccc_ccc")]


def of_two_transformers():
    """A profile whose first transformer has its turn in steps 0 and 1, the second one in the others."""
    profile = make_profile(5)
    sites = (profile.sites[0], Site(transformer="transformer_2", path="blocks.0.attn", kind="spatial", layer=0))
    seconds = np.array([[1, 1, 0, 0, 0], [0, 0, 1, 1, 1]], dtype=np.float32)
    return replace(profile, sites=sites, arrays={**profile.arrays, "seconds": seconds})


def test_a_profile_brings_sites_steps_and_noise_levels() -> None:
    profile = make_profile(5)
    timeline = timeline_of(find_policy("every:2"), profile=profile)
    assert rows(timeline) == [
        ("transformer", "", "ccccc"), ("spatial", "all layers", "ccccc"), ("mlp", "all layers", "ccccc"),
    ]  # fmt: skip
    assert timeline.noise_levels == profile.made_for.sigmas
    rule = Rule(kind="spatial", compute=(0, 4))
    timeline = timeline_of(Policy(name="p", rules=(rule,)), profile=profile)
    assert rows(timeline) == [("spatial", "all layers", "c___c"), ("mlp", "all layers", "ccccc")]
    assert timeline.site_call_share == pytest.approx(7 / 10)


def test_a_transformer_without_its_turn_is_not_called() -> None:
    rule = Rule(kind="spatial", compute=(0, 3))
    timeline = timeline_of(Policy(name="p", rules=(rule,)), profile=of_two_transformers())
    assert [(row.transformer, letters(row)) for row in timeline.rows] == [
        ("transformer", "c_   "), ("transformer_2", "  cc_"),
    ]  # fmt: skip
    assert [(row.computed, row.called) for row in timeline.rows] == [(1, 2), (2, 3)]
    assert timeline.site_call_share == pytest.approx(3 / 5)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(PolicyError, match="a run of 4 denoising steps, not of 5"):
        timeline_of(find_policy("steps:4"), steps=5)
    with pytest.raises(PolicyError, match="profile 'made-up' is of 5 denoising steps, not of 4"):
        timeline_of(find_policy("steps:4"), profile=make_profile(5))
    stranger = Policy(name="p", made_for=MadeFor(fingerprint="sha256:" + "1" * 64))
    with pytest.raises(PolicyError, match="was made for another model"):
        timeline_of(stranger, profile=make_profile(5))
    with pytest.raises(PolicyError, match="no 'cross' sites"):
        timeline_of(Policy(name="p", rules=(Rule(kind="cross", compute=(0,)),)), profile=make_profile(5))
    with pytest.raises(PolicyError, match="at most 10000 can be shown"):
        timeline_of(Policy(name="p"), steps=10**9)
    with pytest.raises(PolicyError, match="no variant for content 'wild'"):
        timeline_of(find_policy("every:2"), content="wild")


def test_a_variant_has_its_own_rules_and_evidence() -> None:
    policy = Policy(
        name="p", rules=(Rule(kind="mlp", compute=(0,)),), variants={"fast": (Rule(kind="mlp", compute=(0, 1)),)},
        evidence={"verdict": "accept", "variants": {"fast": {"verdict": "undecided"}}},
    )  # fmt: skip
    general, fast = timeline_of(policy, steps=3), timeline_of(policy, steps=3, content="fast")
    assert (rows(general)[0][2], rows(fast)[0][2]) == ("c__", "cc_")
    assert (general.evidence, fast.evidence) == ({"verdict": "accept"}, {"verdict": "undecided"})


def test_the_document_lists_the_steps_of_each_state() -> None:
    document = timeline_of(find_policy("every:2:linear:0.7"), steps=8).to_document()
    assert document["rows"] == [
        {
            "transformer": "transformer", "kind": "transformer", "layers": "", "computed": 6, "called": 8,
            "payload": {"kind": "linear", "damping": 0.7}, "steps": {"compute": [0, 1, 2, 4, 6, 7], "broadcast": [3, 5]},
        }
    ]  # fmt: skip
    assert (document["steps"], document["called_steps"], document["site_call_share"]) == (8, 6, 0.75)
