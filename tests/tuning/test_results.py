from dataclasses import replace

import pytest

from pabtune.records.errors import PolicyError
from pabtune.records.policies import MadeFor, Policy
from pabtune.records.rules import Rule
from pabtune.tuning.results import combine, pareto_front
from tests.tuning.test_confirm import candidate

RULES = (Rule(kind="mlp", range=2, window=(2, 6)),)


def test_the_front_drops_what_is_slower_and_worse_and_what_is_incomplete() -> None:
    fast, worse, better = candidate(1, 0.5, 0.0), candidate(2, 0.6, 1.0), candidate(3, 0.7, -2.0)
    given_up = candidate(4, 0.4, -5.0, status="stopped early")
    assert [each.number for each in pareto_front([better, worse, given_up, fast])] == [1, 3]


def test_variants_need_one_model() -> None:
    made_for = MadeFor(
        model="M", fingerprint="sha256:" + "0" * 64, steps=8, scheduler="S", sigmas=(1.0,) * 8, settings={}
    )
    general = Policy(name="g", rules=RULES, made_for=made_for, evidence={"verdict": "accept"})
    slow = replace(general, name="s", evidence={"verdict": "undecided"})
    both = combine("both", general, {"slow": slow})
    assert both.name == "both"
    assert both.variants == {"slow": RULES}
    assert both.evidence["variants"] == {"slow": {"verdict": "undecided"}}
    other = replace(slow, made_for=replace(made_for, scheduler="T"))
    with pytest.raises(PolicyError, match="the same model"):
        combine("both", general, {"slow": other})
