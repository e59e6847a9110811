from dataclasses import replace

import pytest
from diffusers import PyramidAttentionBroadcastConfig

from pabtune.engines.exports import export
from pabtune.planning.presets import PRESETS
from pabtune.records.errors import PolicyError
from pabtune.records.policies import MadeFor, Policy
from pabtune.records.rules import Rule

SIGMAS = tuple(1 - step / 10 for step in range(10))


def policy(*rules: Rule) -> Policy:
    return Policy(name="p", rules=rules, made_for=MadeFor(steps=10, sigmas=SIGMAS))


def test_the_papers_preset_is_expressed_in_full() -> None:
    made = export(PRESETS["pab246"], "diffusers")
    assert made.document["temporal_attention_block_skip_range"] == 4
    assert made.document["cross_attention_timestep_skip_range"] == [450, 930]
    PyramidAttentionBroadcastConfig(**made.document)
    assert [loss for loss in made.losses if "guidance" not in loss] == []
    assert export(PRESETS["pab246"], "videosys").document["spatial_threshold"] == [450, 930]
    assert export(PRESETS["pab246"], "videosys").losses == ()


def test_steps_that_come_out_the_same_are_no_loss_and_others_are_counted() -> None:
    counted_from_zero = Rule(kind="full", range=2, window=(3, 8), anchor="start")
    made = export(policy(counted_from_zero), "videosys")
    assert made.document == {"spatial_broadcast": True, "spatial_range": 2, "spatial_threshold": [250, 750]}
    assert made.losses == ()
    counted_from_window = Rule(kind="full", range=3, window=(3, 8))
    assert export(policy(counted_from_window), "videosys").losses == (
        "full: 3 of 10 steps differ, as ranges there count from step 0, not from the window",
    )


def test_without_noise_levels_nothing_is_called_exact_that_was_not_compared() -> None:
    """A window in noise levels with a range of 4: ten of thirty steps differ, which nobody was told."""
    rule = Rule(kind="spatial", range=4, noise_window=(0.1, 0.8))
    assert (
        "not known without the policy's noise levels" in export(Policy(name="p", rules=(rule,)), "videosys").losses[0]
    )
    counted_from_zero = Policy(name="p", rules=(replace(rule, anchor="start"),))
    assert export(counted_from_zero, "videosys").losses == ()


def test_what_cannot_be_said_is_said() -> None:
    rules = (
        Rule(kind="mlp", range=2, window=(3, 8)),
        Rule(kind="cross", range=2, window=(3, 8), layers=(1,)),
        Rule(kind="spatial", compute=(0, 3, 5)),
    )
    made = export(policy(*rules), "diffusers")
    assert made.document == {}
    assert made.losses == (
        "mlp: only attention can be named",
        "cross of layers 1: layers cannot be chosen",
        "spatial: an explicit list of steps cannot be named",
    )


def test_wrong_requests_are_refused() -> None:
    with pytest.raises(PolicyError, match="unknown engine 'tensorrt'"):
        export(PRESETS["pab246"], "tensorrt")
    with pytest.raises(PolicyError, match="not its noise levels"):
        export(Policy(name="p", rules=(Rule(kind="full", range=2, window=(3, 8)),)), "diffusers")


def test_a_store_and_a_second_transformer_are_losses_and_what_never_broadcasts_is_no_use() -> None:
    """In 8 bits it was called exact; of two transformers the second one was left alone, and nothing said so."""
    rule = Rule(kind="full", range=2, window=(3, 8), anchor="start")
    assert export(replace(policy(rule), store="int8"), "videosys").losses == (
        "store int8: outputs are kept as they are",
    )
    names = {"transformer": {}, "transformer_2": {}}
    two = replace(policy(rule), made_for=MadeFor(steps=10, sigmas=SIGMAS, config=names))
    made = export(two, "diffusers")
    assert "for transformer in (pipe.transformer, pipe.transformer_2,):" in made.use
    assert "each counts steps from its own first one there" in made.losses[-1]
    assert made.is_useful
    for idle in (replace(rule, range=1), replace(rule, range=4, window=(4, 5))):
        assert not export(policy(idle), "videosys").is_useful
