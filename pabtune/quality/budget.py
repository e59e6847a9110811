"""The quality budget: how much of a score a policy may lose, and by what a trial is measured against it.

The unit is a prompt: the drop is the score of the unaccelerated video minus that of the accelerated one, same prompt, seed
and noise. Trials are ranked by a one-sided t bound of the mean drop, corrected for skew (Johnson 1978,
https://doi.org/10.1080/01621459.1978.10479993). That is no verdict (quality/verdict.py).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf

import numpy as np
from scipy import stats

from pabtune.quality.scores import Score, find_score, is_of_vbench
from pabtune.records.errors import BudgetError

LARGEST_LOSS = 100.0
"""Points that one video can lose at most: scores are 0..100, but for VBench's, which are not clipped."""

CONFIDENCE = 0.95
LEAST_JUDGED_PROMPTS = 8
"""Below this many prompts a trial is measured by its mean, not by a bound of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """The largest drop of a score that the user accepts, in points; not negative.

    Attributes:
        score: name of the score.
        largest_drop: in the mean.
        scale: points between the worst and the best video by the score.
        known_loss: largest loss of one video, in points, where the user knows better than the scale; None = the scale.
    """

    score: str
    largest_drop: float
    scale: float = LARGEST_LOSS
    known_loss: float | None = None

    @property
    def largest_loss(self) -> float:
        """Points that one video can lose at most, which a verdict relies on."""
        return self.scale if self.known_loss is None else self.known_loss

    def on_scale(self, scale: float) -> "Budget":
        """The budget on a score whose points have another scale; what the user said of the largest loss stays."""
        return replace(self, scale=scale)

    def on_scale_of(self, score: Score | None, prompts: Sequence[str]) -> "Budget":
        """The budget, which knows how far a video of these prompts can fall by the score; without one as it is."""
        return self if score is None else self.on_scale(score.scale(prompts))

    @classmethod
    def parse(cls, text: str, largest_loss: float | None = None) -> "Budget":
        """Reads `SCORE>=-DROP`, for example `shapes>=-1.0` or `vbench-quality>=-0.5`.

        Args:
            text: the budget.
            largest_loss: points that one video can lose at most; None = as many as the score has.

        Raises:
            BudgetError: the text has another form, the score is unknown, or one video may lose no more than the mean.
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
        most = inf if is_of_vbench(name) else LARGEST_LOSS
        if largest_loss is not None and not abs(change) < largest_loss <= most:
            raise BudgetError(
                f"the largest loss of a video lies between the budget and {most:g} points, not at {largest_loss:g}"
            )
        return cls(score=name, largest_drop=abs(change), known_loss=largest_loss)

    def __str__(self) -> str:
        return f"{self.score}>={-self.largest_drop:g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class DropStatistics:
    """Estimate of the mean drop and its confidence bounds.

    Attributes:
        mean: of the drops, in points.
        upper: one-sided 95 % upper bound of the mean.
        lower: one-sided 95 % lower bound of the mean.
        prompts: number of drops.
    """

    mean: float
    upper: float
    lower: float
    prompts: int


def drop_statistics(drops: Sequence[float]) -> DropStatistics:
    """Mean and confidence bounds of drops, one per prompt; with one drop the bounds are as wide as the score's scale."""
    values = np.asarray(drops, dtype=float)
    mean, count = float(values.mean()), len(values)
    if count < 2:
        return DropStatistics(mean=mean, upper=LARGEST_LOSS, lower=-LARGEST_LOSS, prompts=count)
    deviation = float(values.std(ddof=1))
    # Johnson's correction shifts the mean by skew·sd / 6n, towards the long tail.
    skew = float(stats.skew(values)) if deviation > 1e-9 else 0.0
    center = mean + skew * deviation / (6 * count)
    error = deviation / count**0.5
    half = float(stats.t.ppf(CONFIDENCE, count - 1)) * error
    return DropStatistics(mean=mean, upper=center + half, lower=center - half, prompts=count)
