"""What a search says of its result, and how it exits."""

import pytest

from pabtune.cli.search import is_accepted
from pabtune.cli.search_results import print_result
from pabtune.records.policies import Policy
from pabtune.records.rules import Rule
from pabtune.records.trials import SearchResult


def result_of(general: str | None, variants: dict[str, str | None], inside: tuple[str, ...]) -> SearchResult:
    """A search with these verdicts, in whose policy the general rules and some variants are."""
    rules = (Rule(kind="mlp", range=2, window=(1, 4)),)
    general_rules = rules if general in ("accept", "undecided") else ()
    best = Policy(name="found", rules=general_rules, variants=dict.fromkeys(inside, rules))
    made = {
        content: SearchResult(study="s", candidates=(), best=None, verdict=verdict, evaluations=())
        for content, verdict in variants.items()
    }
    is_empty = not general_rules and not inside
    return SearchResult(
        study="s", candidates=(), best=None if is_empty else best, verdict=general, evaluations=(), variants=made
    )


@pytest.mark.parametrize(
    ("general", "variants", "inside", "is_good"),
    [
        ("accept", {}, (), True),
        ("undecided", {}, (), False),
        ("reject", {}, (), False),
        (None, {}, (), False),
        ("accept", {"slow": None, "fast": "reject"}, (), True),
        ("accept", {"slow": "undecided"}, ("slow",), False),
        (None, {"slow": "accept", "fast": None}, ("slow",), True),
        ("reject", {"slow": "accept"}, ("slow",), True),
    ],
)
def test_the_exit_code_tells_whether_all_that_is_in_the_policy_holds(general, variants, inside, is_good) -> None:
    assert is_accepted(result_of(general, variants, inside)) == is_good


def test_a_policy_of_variants_alone_is_told(capsys, tmp_path) -> None:
    """It said that no policy was found, and wrote one."""
    out = tmp_path / "found.json"
    print_result(result_of(None, {"slow": "accept", "fast": None}, ("slow",)), out, 30, None)
    told = capsys.readouterr().err
    assert f"policy -> {out}" in told
    assert "prompts of other classes are computed whole" in told
    assert "variant slow: accept" in told
    print_result(result_of(None, {"slow": None}, ()), out, 30, None)
    told = capsys.readouterr().err
    assert "no policy was found within the budget; allow a larger drop" in told
    assert "policy ->" not in told
