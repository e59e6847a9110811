import pytest

from pabtune.records.layouts import ONE_GPU, ParallelLayout
from pabtune.records.policies import Policy
from pabtune.records.rules import Rule
from pabtune.tuning.layouts import layout_for
from tests.conftest import make_pipeline

STEPS = 12


def of(**ranges: int) -> Policy:
    rules = tuple(Rule(kind=kind, range=number, window=(1, STEPS)) for kind, number in ranges.items())
    return Policy(name="of", rules=rules)


def axis_for(policy: Policy, content: str | None = None, sequence: int = 2, exchange: str = "dsp") -> str | None:
    layout = ParallelLayout(sequence=sequence, exchange=exchange)
    return layout_for(make_pipeline(), layout, policy, content, STEPS).axis


@pytest.mark.parametrize(
    ("policy", "axis"),
    [(of(spatial=2, temporal=4), "frames"), (of(spatial=4, temporal=2), "tokens"), (Policy(name="none"), "frames")],
)
@pytest.mark.parametrize("exchange", ["dsp", "ulysses"])
def test_the_attention_that_is_broadcast_most_exchanges(policy, axis, exchange) -> None:
    assert axis_for(policy, exchange=exchange, sequence=4) == axis


def test_a_variant_for_a_content_class_counts() -> None:
    policy = Policy(
        name="of", rules=of(spatial=2, temporal=4).rules, variants={"still": of(spatial=6, temporal=2).rules}
    )
    assert axis_for(policy) == "frames"
    assert axis_for(policy, "still") == "tokens"


def test_a_policy_that_cannot_run_is_left_to_the_run() -> None:
    policy = Policy(name="of", rules=(Rule(kind="spatial", range=2, window=(0, 40)),))
    assert axis_for(policy) is None


def test_a_layout_that_leaves_nothing_open_is_kept() -> None:
    policy = of(spatial=4, temporal=2)
    for layout in (ParallelLayout(sequence=2, axis="frames"), ONE_GPU, ParallelLayout(branches=2)):
        assert layout_for(make_pipeline(), layout, policy, None, STEPS) == layout
