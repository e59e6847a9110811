from dataclasses import replace

import pytest

from pabtune.planning.few_steps import bound, closest_that_saves, most_held, nothing_worth
from pabtune.records.policies import Policy
from pabtune.records.trials import Candidate, Measurement, Outcome


def candidate(number: int, time: float, psnr_db: float | None) -> Candidate:
    measured = None
    if psnr_db is not None:
        measured = Measurement(prompts=4, seconds=1.0, psnr_db=psnr_db, drop=2.5, drop_upper=3.0, over_budget=1.0)
    outcome = Outcome(status="complete", predicted_time=time, compute_fraction=time, measured=measured)
    return Candidate(number=number, origin="sampler", policy=Policy(name="p"), parameters={}, outcome=outcome)


@pytest.mark.parametrize("steps", range(1, 12))
def test_the_bound_is_that_of_the_longest_mask_that_never_holds_two_in_a_row(steps) -> None:
    masks = (
        mask
        for number in range(2**steps)
        for mask in [f"{number:0{steps}b}"]
        if mask[0] == mask[-1] == "1" and "00" not in mask
    )
    assert most_held(steps) == max(mask.count("0") for mask in masks)


def test_the_bound_in_words() -> None:
    assert bound(4) == (
        "4 steps: at most 1 can be held without holding two in a row, the first or the last: 25% of the transformer's time, "
        "1.33x"
    )
    assert bound(2) == "2 steps: nothing worth caching, as the first and the last step must compute"


def test_nothing_worth_caching_is_said_with_the_closest_that_saves_something() -> None:
    tried = [candidate(0, 1.0, 100.0), candidate(1, 0.97, 60.0), candidate(2, 0.8, 21.0), candidate(3, 0.6, 15.0)]
    assert closest_that_saves(tried) is tried[2]
    assert nothing_worth(4, tried) == (
        "nothing worth caching at 4 steps: the closest of 4 policies that saves 5% of the time or more (predicted 20%) is "
        "21.0 dB from the full run and loses +2.50 points"
    )
    unmeasured = replace(tried[2], outcome=replace(tried[2].outcome, measured=None))
    for none in (tried[:2], [unmeasured], []):
        assert closest_that_saves(none) is None
        assert nothing_worth(4, none) == "nothing worth caching at 4 steps: no policy saves 5% of the time"
