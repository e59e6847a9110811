import pytest

from pabtune.records.policies import Policy, Rule
from pabtune.tuning.sharing import axis_for
from tests.conftest import make_pipeline

STEPS = 12


def of(**ranges: int) -> Policy:
    rules = tuple(Rule(kind=kind, range=number, window=(1, STEPS)) for kind, number in ranges.items())
    return Policy(name="of", rules=rules)


@pytest.mark.parametrize(
    ("policy", "axis"),
    [(of(spatial=2, temporal=4), "frames"), (of(spatial=4, temporal=2), "tokens"), (Policy(name="none"), "frames")],
)
@pytest.mark.parametrize("parallel", ["dsp", "ulysses"])
def test_the_attention_that_is_broadcast_most_exchanges(policy, axis, parallel) -> None:
    assert axis_for(make_pipeline(), policy, None, STEPS, parallel, 4) == axis


def test_a_variant_for_a_content_class_counts() -> None:
    policy = Policy(
        name="of", rules=of(spatial=2, temporal=4).rules, variants={"still": of(spatial=6, temporal=2).rules}
    )
    assert axis_for(make_pipeline(), policy, None, STEPS, "dsp", 2) == "frames"
    assert axis_for(make_pipeline(), policy, "still", STEPS, "dsp", 2) == "tokens"


def test_a_policy_that_cannot_run_is_left_to_the_run() -> None:
    policy = Policy(name="of", rules=(Rule(kind="spatial", range=2, window=(0, 40)),))
    assert axis_for(make_pipeline(), policy, None, STEPS, "dsp", 2) == "frames"
