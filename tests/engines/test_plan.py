"""What an engine is to do of a policy: masks, lines, and what is left of rules that one mask cannot say."""

import pytest

from pabtune.engines.engine import ENGINES
from pabtune.engines.plan import Facts, plan_of
from pabtune.engines.step_masks import span
from pabtune.planning.presets import named_policy
from pabtune.records.errors import PolicyError
from pabtune.records.policies import Policy
from pabtune.records.rules import Rule
from tests.engines.policies import BEHIND_THE_FIRST, BITS, SIGMAS, held, made_for

CACHE_DIT, DIFFUSERS = ENGINES["cache-dit"], ENGINES["diffusers"]


def linear(sigmas: tuple[float, ...] | None, **changes) -> Policy:
    rule = Rule(kind="stack", compute=(0, 1, 3, 5, 6, 8), layers=BEHIND_THE_FIRST, payload="linear", **changes)
    return Policy(name="linear", rules=(rule,), made_for=made_for(sigmas=sigmas))


def test_the_mask_is_the_policys_own() -> None:
    (mask,) = plan_of(held(BEHIND_THE_FIRST), CACHE_DIT).masks
    assert (mask.bits, mask.held, mask.computed_steps) == (BITS, 4, (0, 2, 5, 6, 8, 9))
    assert mask.is_line is False


@pytest.mark.parametrize("sigmas", [SIGMAS, None])
def test_a_linear_payload_is_a_line_over_steps_where_levels_fall_evenly(sigmas) -> None:
    plan = plan_of(linear(sigmas), CACHE_DIT)
    assert plan.masks[0].serves == ("hold", "hold", "line", "hold", "line", "hold", "hold", "line", "hold", "line")
    assert plan.masks[0].is_line
    assert plan.losses == (
        "payload: in 1 of 4 held steps (2) the policy serves something else than the line through the last two residuals",
    )


def test_other_levels_and_damping_make_it_no_line() -> None:
    uneven = tuple(level**2 for level in SIGMAS)
    for policy in (linear(uneven), linear(SIGMAS, damping=0.5)):
        plan = plan_of(policy, CACHE_DIT)
        assert not plan.masks[0].is_line
        assert plan.losses == (
            "payload: in 4 of 4 held steps (2, 4, 7, 9) the policy serves something else than the last residual",
        )


def test_an_engine_without_lines_holds() -> None:
    rule = Rule(kind="stack", compute=(0, 1, 3, 5, 6, 8), payload="linear")
    plan = plan_of(Policy(name="p", rules=(rule,), made_for=made_for()), DIFFUSERS)
    assert not plan.masks[0].is_line
    assert plan.losses == (
        "payload: in 4 of 4 held steps (2, 4, 7, 9) the policy serves something else than the last residual",
    )


def test_of_two_stacks_the_one_that_holds_more_is_taken() -> None:
    rules = (
        Rule(kind="stack", compute=(0, 2, 5, 6, 8, 9), layers=(1, 2)),
        Rule(kind="stack", compute=(0,), layers=(3,)),
    )
    plan = plan_of(Policy(name="p", rules=rules, made_for=made_for()), CACHE_DIT)
    assert plan.masks[0].computed_steps == (0,)
    assert plan.losses == (
        "stack of layers 1..2: 4 held steps; one mask is for all",
        "stack: layers 1..2 of 4 are held too, in each of 9 held steps",
    )


def test_both_lists_of_blocks_are_one_mask() -> None:
    config = {"transformer": {"num_layers": 3, "num_single_layers": 2}}
    hunyuan = made_for("HunyuanVideoTransformer3DModel", config=config)
    assert plan_of(held((1, 2, 4), made_for=hunyuan), CACHE_DIT).losses == ()
    assert plan_of(held(made_for=hunyuan), DIFFUSERS).losses == ()
    assert plan_of(held(made_for=hunyuan), CACHE_DIT).losses == (
        "stack: layers 0, 3 of 5 compute there, in each of 4 held steps",
    )


def test_lists_that_take_turns_are_no_stack() -> None:
    stdit3 = made_for("STDiT3Transformer3DModel", config={"transformer": {"depth": 3}})
    assert plan_of(held(made_for=stdit3), ENGINES["lightx2v"]).losses == (
        "stack: lists of blocks that take turns (spatial_blocks, temporal_blocks) are not held as one there",
    )


def test_a_run_of_fewer_steps_is_asked_of_the_engine() -> None:
    plan = plan_of(named_policy("steps:22"), CACHE_DIT)
    assert (plan.steps, plan.held) == (22, 0)
    assert plan.losses == ("its 22 denoising steps: ask the engine for them when you call it",)


def test_rules_that_meet_are_refused() -> None:
    rules = (Rule(kind="stack", compute=(0, 2)), Rule(kind="stack", compute=(0, 3)))
    with pytest.raises(PolicyError, match="two rules are for the same site"):
        plan_of(Policy(name="p", rules=rules, made_for=made_for()), CACHE_DIT)


def test_spans() -> None:
    assert span({7, 1, 2, 3}) == "1..3, 7"
    assert span([]) == ""


def test_numbers_that_no_model_has_are_refused() -> None:
    """A few bytes of a file would have asked for gigabytes."""
    unknown = made_for(config={})
    with pytest.raises(PolicyError, match="names layer 999999999, but no model has that many"):
        plan_of(held((999_999_999,), made_for=unknown), CACHE_DIT)
    huge = made_for(config={"transformer": {"num_layers": 10**9}})
    assert "which blocks the model has is not known" in plan_of(held(made_for=huge), CACHE_DIT).losses[0]
    with pytest.raises(PolicyError, match="was made for 1000000000 steps, but no run has more than 10000"):
        plan_of(held(made_for=made_for(steps=10**9, sigmas=None)), CACHE_DIT)


def test_a_transformer_that_is_never_called_has_no_mask() -> None:
    two = held(BEHIND_THE_FIRST, made_for=made_for(names=("transformer", "transformer_2")))
    (mask,) = plan_of(two, CACHE_DIT, Facts(boundary=0.0)).masks
    assert (mask.transformer, mask.bits) == ("transformer", BITS)
