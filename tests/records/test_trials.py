import json

import pytest

from pabtune.records.trials import Measurement, Outcome

MEASURED = Measurement(
    prompts=4, seconds=1.5, psnr_db=30.0, drop=0.5, drop_upper=0.9, over_budget=-0.1, under_floor_db=-2.0
)


def outcome(status="complete", measured=MEASURED, over_memory=None) -> Outcome:
    return Outcome(
        status=status, predicted_time=0.7, compute_fraction=0.6, measured=measured, over_memory=over_memory
    )  # fmt: skip


@pytest.mark.parametrize(
    "each", [outcome(), outcome("over memory", None, 0.5), outcome("stopped early", over_memory=-0.2)]
)
def test_documents_give_the_same_outcome_back(each) -> None:
    assert Outcome.from_document(json.loads(json.dumps(each.to_document()))) == each


def test_what_was_not_run_has_no_measurements_and_is_not_possible() -> None:
    unrun = outcome("over memory", None, 0.5)
    assert not unrun.is_possible
    assert unrun.constraints == {"over_memory": 0.5}


@pytest.mark.parametrize(
    ("each", "is_possible", "is_feasible"),
    [
        (outcome(), True, True),
        (outcome("stopped early"), True, False),
        (
            outcome(measured=Measurement(prompts=1, seconds=1, psnr_db=9, drop=2, drop_upper=3, over_budget=1)),
            False,
            False,
        ),
        (
            outcome(
                measured=Measurement(
                    prompts=1, seconds=1, psnr_db=9, drop=0, drop_upper=0, over_budget=0, under_floor_db=0.1
                )
            ),
            False,
            False,
        ),
        (
            outcome(measured=Measurement(prompts=1, seconds=1, psnr_db=9, drop=0, drop_upper=0, over_budget=0)),
            True,
            True,
        ),
    ],
)
def test_a_feasible_outcome_is_complete_and_inside_all_limits(each, is_possible, is_feasible) -> None:
    assert (each.is_possible, each.is_feasible) == (is_possible, is_feasible)


def test_constraints_are_what_was_measured() -> None:
    assert outcome(over_memory=-0.2).constraints == {"over_memory": -0.2, "over_budget": -0.1, "under_floor_db": -2.0}
    without = Measurement(prompts=1, seconds=1, psnr_db=9, drop=0, drop_upper=0, over_budget=0.3)
    assert outcome(measured=without).constraints == {"over_budget": 0.3}
