"""What `benchmarks/content.py` chooses, from drops that are arithmetic, and judges."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.content import CONTENTS, by_content, choose, drops_of, judge
from pabtune.cli.options import sample_split
from pabtune.quality.budget import Budget
from pabtune.records.evaluations import Evaluation
from pabtune.records.policies import Policy
from tests.conftest import PROMPTS, make_pipeline

ONE = Budget(score="shapes", largest_drop=1.0)
POLICIES = [Policy(name=f"{count} of 10") for count in (9, 5, 2)]
NOISE = np.tile([-0.1, 0.1], 10)


def evaluation(compute: float, still: float, fast: float) -> Evaluation:
    """20 prompts of each class, with drops around a mean."""
    drops, zeros = np.concatenate([still + NOISE, fast + NOISE]), (0.0,) * 40
    return Evaluation(
        policy="", compute_fraction=compute, latency_s=compute, baseline_latency_s=1.0, psnr_db=zeros, ssim=zeros,
        score_name="shapes", baseline_scores=zeros, scores=tuple((-drops).tolist()), computed_calls={}, broadcast_calls={},
        most_stored_bytes=0, prompts=tuple(map(str, range(40))), contents=("still",) * 20 + ("fast",) * 20,
    )  # fmt: skip


EVALUATIONS = [evaluation(0.9, 0.0, 0.0), evaluation(0.5, 0.3, 0.0), evaluation(0.2, 1.5, -0.9)]


@pytest.mark.parametrize(
    ("contents", "name"),
    [
        (("still",), "5 of 10"),
        (("fast",), "2 of 10"),
        (("still", "fast"), "5 of 10"),  # a mean over both would allow 2 of 10: 0.3
    ],
)
def test_the_fastest_that_holds_in_every_class_is_chosen(contents, name) -> None:
    assert choose(EVALUATIONS, POLICIES, ONE, contents).name == name


def test_what_is_not_shown_to_hold_is_not_chosen() -> None:
    over = [evaluation(0.9, 2.0, 2.0), evaluation(0.5, 0.98, 3.0), evaluation(0.2, 4.0, 4.0)]
    assert choose(over, POLICIES, ONE, ("still",)).name == "9 of 10"  # 0.98 may be more than 1
    assert drops_of(over[1], "fast") == pytest.approx((3.0 + NOISE).tolist())


def test_policies_are_judged_until_their_verdicts_are_clear() -> None:
    """It called `evaluate` with an argument that is gone, and ended in a TypeError after all the work before."""
    prompts = [replace(each, content=content) for each, content in zip(PROMPTS[:2], ("still", "fast"), strict=True)]
    plain = Policy(name="none")
    policy, _ = by_content(plain, dict.fromkeys(CONTENTS, plain), sample_split(24, 12, 30))
    (row,) = judge(make_pipeline(), [policy], prompts, ONE, 2)
    assert (row["policy"], row["verdict"], row["prompts"], row["drop"]) == ("by content", "undecided", 2, 0.0)
