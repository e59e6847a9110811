"""What another engine's file comes to on a model, and what does not fit one."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest

import pabtune
from pabtune.engines.reading.configuration import Configuration, DualBlocks, HeldSteps, ModuleSeries, Nothing
from pabtune.methods.block_lists import dual_block_layers, front_and_back
from pabtune.methods.engine_files import engine_policy, fixed_policy
from pabtune.records.errors import ModelError, PolicyError
from pabtune.records.policies import MadeFor, Policy
from pabtune.records.rules import Rule
from pabtune.records.sites import Site
from pabtune.runtime.deciders import DynamicPolicy
from pabtune.runtime.targets import Target
from tests.methods.wan import LAYERS, build
from tests.pipelines.cases import CASES, run

MASK = (True, True, False, True, False, True)
STATIC = DualBlocks(front=1, mask=MASK, is_static=True)


@cache
def target(name: str = "wan") -> Target:
    return Target.of(build() if name == "wan" else CASES[name].build())


def configured(rule: Any, **others: Any) -> Configuration:
    return Configuration(**{"engine": "cache-dit", "name": "team.yaml", "form": "", "rule": rule, **others})


def blocks(**lists: tuple[int, ...]) -> list[Site]:
    """Sites of lists of blocks by their layers."""
    return [
        Site(path=f"{name}.{place}.attn", kind="full", layer=layer, block=f"{name}.{place}")
        for name, layers in lists.items()
        for place, layer in enumerate(layers)
    ]


def test_a_static_mask_holds_the_blocks_between_front_and_back() -> None:
    judged = engine_policy(configured(STATIC), target(), 6)
    assert judged.policy == Policy(
        name="team.yaml",
        rules=(Rule(kind="stack", compute=(0, 1, 3, 5), layers=tuple(range(1, LAYERS))),),
        made_for=MadeFor(steps=6),
    )
    assert judged.remarks == ()


def test_the_series_of_cache_dit_begins_at_step_3() -> None:
    (rule,) = engine_policy(
        configured(DualBlocks(front=1, mask=MASK, is_static=True, order=1)), target(), 6
    ).policy.rules
    assert rule.payload == "scaled"
    assert rule.factors == ((), (), (), (), (0.5,), ())  # at step 4, half of the change from step 1 to step 3
    (rule,) = engine_policy(
        configured(DualBlocks(front=1, mask=(True, False, False, True), is_static=True, order=1)), target(), 4
    ).policy.rules
    assert (rule.payload, rule.factors) == ("hold", ())


def test_a_threshold_decides_in_the_run() -> None:
    policy = engine_policy(
        configured(DualBlocks(front=1, back=1, order=2, takes_one_decision=True)), target(), 6
    ).policy
    assert isinstance(policy, DynamicPolicy)
    assert (policy.front, policy.back, policy.history, policy.is_shared, policy.steps) == (1, 1, 3, True, 6)


def test_a_warm_up_that_the_mask_cuts_is_said() -> None:
    judged = engine_policy(configured(DualBlocks(front=1, mask=MASK)), target(), 6)
    assert judged.remarks == ("max_warmup_steps 8 counts as 2, where the mask first lets a step be held",)


def test_remarks_of_the_file_come_first() -> None:
    assert engine_policy(configured(Nothing(), remarks=("a",)), target(), 6).remarks == ("a",)


@pytest.mark.parametrize(
    ("configuration", "error"),
    [
        (configured(STATIC, steps=9), "is for 9 denoising steps (num_inference_steps), but the run has 6; say --steps 9"),
        (
            configured(DualBlocks(front=1, mask=(*MASK, True), is_static=True)),
            "the mask is for 7 denoising steps, but the run has 6: the rest of it would be left out; say --steps 7, or write",
        ),
        (configured(DualBlocks(front=1, mask=MASK[:4])), "the steps behind it count as held, or as free to be"),
        (configured(DualBlocks(front=1, mask=MASK[:4]), is_cut=True), "the run has 6: SGLang stops; say --steps 4"),
        (configured(DualBlocks(front=1, mask=(*MASK, True)), is_cut=True), "the run has 6: SGLang cuts it; say --steps 7"),
        (configured(DualBlocks(front=3, back=1)), "3 blocks in front and 1 behind always compute, of the 4 of transformer: "
                                                  "nothing is left to hold"),
        (configured(DualBlocks(front=8)), "of the 4 of transformer: the engine stops; name fewer (Fn_compute_blocks"),
        (
            configured(ModuleSeries(interval=3, before=3, after=None, order=1, patterns=("^blocks.*attn",))),
            "its patterns match no module of WanTransformer3DModel, so that diffusers keeps nothing and says nothing",
        ),
        (
            configured(ModuleSeries(interval=3, before=3, after=None, order=1, patterns=(r"blocks\.0\.attn1",))),
            "must match all attention or MLPs of a kind",
        ),
        (
            configured(ModuleSeries(interval=3, before=0, after=None, order=1, patterns=("blocks.*attn1",))),
            "step 0 does not compute, and diffusers stops there; set disable_cache_before_step to 1",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(configuration, error) -> None:
    with pytest.raises(PolicyError) as refused:
        engine_policy(configuration, target(), 6)
    assert error in str(refused.value)


def test_calls_that_cache_dit_would_take_for_steps_are_told() -> None:
    with pytest.raises(
        PolicyError, match="is true, but CogVideoXTransformer3DModel makes one call for both branches of guidance"
    ):
        engine_policy(configured(STATIC, has_separate_calls=True), target("cogvideox-ddim"), 6)
    assert engine_policy(configured(STATIC), target(), 6).remarks == ()
    (said,) = engine_policy(configured(STATIC, has_separate_calls=False), target(), 6).remarks
    assert said.startswith(
        "enable_separate_cfg is false, which is right only if the run does not guide: else cache-dit counts"
    )
    (said,) = engine_policy(configured(STATIC), target("hunyuan-distilled"), 6).remarks
    assert said.startswith(
        "if the run has a call for each guidance branch (true_cfg_scale), cache-dit counts them as steps"
    )
    assert engine_policy(configured(STATIC, engine="sglang"), target("hunyuan-distilled"), 6).remarks == ()


def test_a_held_text_stream_is_told_where_it_matters() -> None:
    rule = DualBlocks(front=1, mask=MASK, is_static=True, order=1, continues_text=False)
    assert engine_policy(configured(rule), target(), 6).remarks == ()  # what follows the held blocks reads no text
    for other, name in ((replace(rule, back=1), "wan"), (rule, "hunyuan-distilled")):
        assert "cache-dit holds its residual" in engine_policy(configured(other), target(name), 6).remarks[-1]


@pytest.mark.filterwarnings("ignore")
def test_first_blocks_that_change_the_layout_are_refused() -> None:
    """Latte's spatial and temporal blocks have other shapes: this was a RuntimeError of torch."""
    pipeline = CASES["latte"].build()
    policy = engine_policy(configured(DualBlocks(front=1)), Target.of(pipeline), 6).policy
    with (
        pabtune.broadcast(pipeline, policy),
        pytest.raises(ModelError, match="what the first blocks add cannot be told: they take .* and return "),
    ):
        run(pipeline, "latte", num_inference_steps=6)


@pytest.mark.parametrize(
    ("rule", "others", "error"),
    [
        (
            DualBlocks(front=1, mask=MASK),
            {"other_for_second": ("Bn_compute_blocks",)},
            "Bn_compute_blocks of the second",
        ),
        (DualBlocks(front=1, preset="fast"), {}, "only a mask as a list can be judged, not a preset"),
        (HeldSteps(mask=MASK), {}, "a cache of diffusers is for one transformer, but the model has 2"),
    ],
)
def test_what_cannot_be_said_of_two_transformers_is_refused(rule, others, error) -> None:
    with pytest.raises(PolicyError) as refused:
        engine_policy(configured(rule, **others), target("wan-2.2"), 6)
    assert error in str(refused.value)


def test_knobs_of_a_second_transformer_do_not_matter_to_one() -> None:
    assert engine_policy(configured(STATIC, other_for_second=("Bn_compute_blocks",)), target(), 6).policy.rules


def test_each_list_of_blocks_has_its_own_front() -> None:
    sites = blocks(double=(0, 1, 2, 3), single=(4, 5, 6))
    assert dual_block_layers("f", 1, 1, sites) == {None: (1, 2, 5)}
    with pytest.raises(
        PolicyError, match="transformer has 2 lists of blocks, and the engine decides for each by itself"
    ):
        front_and_back("f", 1, 1, sites)


def test_lists_that_take_turns_count_layer_by_layer() -> None:
    sites = blocks(spatial=(0, 1, 2, 3), temporal=(0, 1, 2, 3))
    assert dual_block_layers("f", 1, 1, sites) == {None: (1, 2)}
    assert front_and_back("f", 1, 1, sites) == (2, 2)


@pytest.mark.parametrize("ask", [dual_block_layers, front_and_back])
def test_lists_that_run_beside_each_other_cannot_be_judged(ask: Callable[..., Any]) -> None:
    with pytest.raises(PolicyError, match="the blocks of control run beside others, which cannot be judged"):
        ask("f", 1, 0, blocks(blocks=(0, 1, 2, 3), control=(0, 1)))
    with pytest.raises(PolicyError, match="the card of the model names no blocks"):
        ask("f", 1, 0, [Site(path="attn", kind="full", layer=0)])


def test_a_file_is_shown_without_a_model_if_its_steps_are_fixed() -> None:
    shown = fixed_policy(configured(STATIC), None, None)
    assert shown.policy.rules == (Rule(kind="stack", compute=(0, 1, 3, 5)),)
    assert shown.remarks == (
        "the first 1 and the last 0 blocks compute in all steps; a --profile of the model tells which the others are",
    )
    assert fixed_policy(configured(STATIC), target().sites, 6) == engine_policy(configured(STATIC), target(), 6)
    assert fixed_policy(configured(HeldSteps(mask=MASK)), None, None).policy.rules[0].compute == (0, 1, 3, 5)
    assert fixed_policy(configured(Nothing()), None, 9).policy == Policy(name="team.yaml")


@pytest.mark.parametrize(
    ("rule", "error"),
    [
        (DualBlocks(front=1), "which steps compute is decided in the run; pabtune evaluate MODEL --policy team.yaml"),
        (DualBlocks(front=1, preset="fast", is_static=True), "depends on the number of denoising steps; say --steps"),
    ],
)
def test_what_is_not_fixed_is_not_shown(rule, error) -> None:
    with pytest.raises(PolicyError) as refused:
        fixed_policy(configured(rule), None, None)
    assert error in str(refused.value)
