"""What `benchmarks/search.py` counts and compares; outcomes are arithmetic, no video is generated."""

from collections import Counter

import numpy as np
import pytest

from benchmarks.search import SAMPLERS, Tried, best_time, compare, penalized, run_search
from pabtune.records.policies import Policy
from pabtune.records.trials import Measurement, Outcome
from pabtune.tuning.space import Space
from tests.records.test_profiles import make_profile

PROMPTS, VIDEOS = 4, 120


def outcome(time: float, over_budget: float = -1.0, under_floor_db: float = -1.0) -> Outcome:
    measured = Measurement(
        prompts=PROMPTS, seconds=time, psnr_db=40.0, drop=0.0, drop_upper=0.0, over_budget=over_budget,
        under_floor_db=under_floor_db,
    )  # fmt: skip
    return Outcome(status="complete", predicted_time=time, compute_fraction=time, measured=measured)


def tried(videos: int, time: float | None) -> Tried:
    return Tried(videos=videos, time=time, is_queued=False, ask_s=0.0)


def test_what_passes_a_limit_is_slower_than_all_that_does_not_and_the_further_the_slower() -> None:
    assert penalized(outcome(0.4)) == 0.4
    assert penalized(outcome(0.1, over_budget=0.5)) == 1.5
    assert penalized(outcome(0.1, over_budget=0.5, under_floor_db=2.0)) == 3.5


def test_the_best_time_is_of_feasible_trials_that_the_videos_pay_for() -> None:
    trials = [tried(4, 1.0), tried(8, None), tried(12, 0.7), tried(12, 0.6), tried(16, 0.5)]
    assert [best_time(trials, videos) for videos in (3, 4, 11, 12, 16, 99)] == [np.inf, 1.0, 1.0, 0.6, 0.5, 0.5]


def test_equal_times_share_a_rank_and_five_faster_seeds_of_five_can_be_told() -> None:
    times = {"TPE": [0.6, 0.7, 0.8, 0.9, 0.7], "GP": [0.5] * 5, "random": [0.6, 0.7, 0.8, 0.9, 0.7]}
    compared = compare(times)
    assert {name: row["rank"] for name, row in compared.items()} == {"TPE": 2.5, "GP": 1.0, "random": 2.5}
    assert compared["TPE"] == {"median": 0.7, "least": 0.6, "most": 0.9, "rank": 2.5, "p_equal": 1.0}
    assert compared["GP"]["p_equal"] < 0.01
    assert compared["random"]["p_equal"] == 1.0


@pytest.mark.parametrize("name", ["TPE", "CMA-ES", "NSGA-II", "random"])  # GP takes half a minute
def test_a_search_pays_for_each_policy_once_and_begins_as_all_do(name) -> None:
    paid: Counter[object] = Counter()

    def try_out(policy: Policy, time_to_beat: float | None = None) -> Outcome:
        paid[policy.rules] = PROMPTS
        time = 1 / (1 + len(policy.rules))
        return outcome(time, over_budget=0.4 - time)

    space = Space(make_profile(12))
    trials = run_search(SAMPLERS[name](0), space, try_out, VIDEOS)
    assert trials[-1].videos == paid.total() == VIDEOS
    queued = len({tuple(values.items()) for _, values in space.first_trials()})
    assert [trial.is_queued for trial in trials[: queued + 1]] == [True] * queued + [False]
    assert trials[0] == Tried(videos=PROMPTS, time=1.0, is_queued=True, ask_s=trials[0].ask_s)
    assert best_time(trials, VIDEOS) == 0.5
