"""The quality budget: how much of a score a policy may lose, and whether it holds, with statistics.

The unit is a prompt: the drop is the score of the unaccelerated video minus that of the accelerated one, same prompt, seed
and noise. The budget holds when the mean drop is below it, shown by a one-sided t bound corrected for skew (Johnson 1978,
https://doi.org/10.1080/01621459.1978.10479993): drops are skewed, a few videos break while most do not change.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from pabtune.quality.scores import find_score
from pabtune.records.errors import BudgetError
from pabtune.records.trials import Verdict

CONFIDENCE = 0.95
LEAST_JUDGED_PROMPTS = 8
"""Below this many prompts there is no verdict."""

LEAST_ACCEPTED_PROMPTS = 36
"""Below this many prompts nothing is accepted: with drops of which a few are large, bounds from fewer hold too seldom."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """The largest drop of a score that the user accepts, in points; not negative."""

    score: str
    largest_drop: float

    @classmethod
    def parse(cls, text: str) -> "Budget":
        """Reads `SCORE>=-DROP`, for example `shapes>=-1.0` or `vbench-quality>=-0.5`.

        Raises:
            BudgetError: the text has another form, or the score is unknown.
        """
        match = re.fullmatch(r"\s*([\w.:-]+)\s*>=\s*(-?[0-9]{1,9}(?:\.[0-9]{1,9})?)\s*", text)
        if match is None:
            raise BudgetError(f"a budget reads SCORE>=-DROP, for example 'shapes>=-1.0', but got {text!r}")
        name, change = match[1], float(match[2])
        find_score(name)
        if change > 0:
            raise BudgetError(
                f"the budget {text!r} asks for a gain; it must allow a drop: '{name}>=-{match[2]}' or '{name}>=0'"
            )
        return cls(score=name, largest_drop=abs(change))

    def __str__(self) -> str:
        return f"{self.score}>={-self.largest_drop:g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class DropStatistics:
    """Estimate of the mean drop and its confidence bounds.

    Attributes:
        mean: of the drops, in points.
        ci95: two-sided 95 % interval of the mean, corrected for skew.
        upper: one-sided 95 % upper bound of the mean.
        lower: one-sided 95 % lower bound of the mean.
        prompts: number of drops.
    """

    mean: float
    ci95: tuple[float, float]
    upper: float
    lower: float
    prompts: int


def drop_statistics(drops: Sequence[float], comparisons: int = 1) -> DropStatistics:
    """Mean and confidence bounds of drops; with one drop the bounds are as wide as the score's scale.

    Args:
        drops: per prompt.
        comparisons: number of bounds that are looked at, of which all shall hold together with the confidence: the upper
            bound's error is divided by it (Bonferroni).
    """
    values = np.asarray(drops, dtype=float)
    mean, count = float(values.mean()), len(values)
    if count < 2:
        return DropStatistics(mean=mean, ci95=(-100.0, 100.0), upper=100.0, lower=-100.0, prompts=count)
    deviation = float(values.std(ddof=1))
    # Johnson's correction shifts the mean by skew·sd / 6n, towards the long tail.
    skew = float(stats.skew(values)) if deviation > 1e-9 else 0.0
    center = mean + skew * deviation / (6 * count)
    error = deviation / count**0.5
    shares = [0.5 + CONFIDENCE / 2, 1 - (1 - CONFIDENCE) / comparisons, CONFIDENCE]
    wide, upper, lower = (float(each) for each in stats.t.ppf(shares, count - 1) * error)
    return DropStatistics(
        mean=mean, ci95=(center - wide, center + wide), upper=center + upper, lower=center - lower, prompts=count
    )


def judge(drops: Sequence[float], budget: Budget, comparisons: int = 1) -> Verdict:
    """Whether the mean drop is within the budget: shown to be (accept), shown not to be (reject), or neither.

    Args:
        drops: per prompt.
        budget: the largest mean drop.
        comparisons: number of policies that are judged on these prompts, now and before; each makes it harder to accept.
    """
    if len(drops) < LEAST_JUDGED_PROMPTS:
        return "undecided"
    statistics = drop_statistics(drops, comparisons)
    if statistics.upper <= budget.largest_drop and len(drops) >= LEAST_ACCEPTED_PROMPTS:
        return "accept"
    return "reject" if statistics.lower > budget.largest_drop else "undecided"
