import pytest

from pabtune.planning.rule_sites import rule_sites
from pabtune.records.errors import PolicyError
from pabtune.records.policies import Policy
from pabtune.records.rules import Rule


def places(*rules: Rule) -> list[tuple[str, str, int]]:
    named = rule_sites(Policy(name="p", rules=rules))
    return [(site.transformer, site.kind, site.layer) for site in named.sites]


def test_a_rule_without_layers_has_one_layer_that_stands_for_all() -> None:
    rules = (Rule(kind="spatial", range=2, first=1, last=1),)
    assert places(*rules) == [("transformer", "spatial", 0)]
    assert rule_sites(Policy(name="p", rules=rules)).last_layer == 0


def test_named_layers_and_those_behind_them() -> None:
    rules = (Rule(kind="mlp", compute=(0,), layers=(0, 2)), Rule(kind="spatial", range=2, first=1, last=1))
    assert places(*rules) == [
        ("transformer", "mlp", 0), ("transformer", "spatial", 0), ("transformer", "spatial", 1),
        ("transformer", "mlp", 2), ("transformer", "spatial", 2), ("transformer", "spatial", 3),
    ]  # fmt: skip


def test_blocks_and_stacks_are_those_that_a_rule_names() -> None:
    assert places(Rule(kind="block", compute=(0,), layers=(1, 3))) == [
        ("transformer", "block", 1), ("transformer", "block", 3),
    ]  # fmt: skip
    named = rule_sites(Policy(name="p", rules=(Rule(kind="stack", compute=(0,), layers=(1, 2, 3)),)))
    assert [(site.layer, site.feeders) for site in named.sites] == [(1, ("blocks.2", "blocks.3"))]


def test_policies_of_whole_calls_always_have_the_call() -> None:
    call = ("transformer", "transformer", 0)
    assert places() == [call]
    assert places(Rule(kind="transformer", compute=(0,))) == [call]
    assert places(Rule(kind="guidance", compute=(0,))) == [call, ("transformer", "guidance", 0)]


def test_every_transformer_that_rules_are_for() -> None:
    second = Rule(kind="transformer", compute=(0,), transformer="transformer_2")
    assert places(second) == [("transformer_2", "transformer", 0)]
    assert places(second, Rule(kind="guidance", compute=(0,))) == [
        ("transformer", "transformer", 0), ("transformer_2", "transformer", 0),
        ("transformer", "guidance", 0), ("transformer_2", "guidance", 0),
    ]  # fmt: skip


def test_layers_that_no_model_has_are_refused() -> None:
    with pytest.raises(PolicyError, match="names layer 4000, but no model has that many"):
        places(Rule(kind="mlp", compute=(0,), layers=(4000,)))
