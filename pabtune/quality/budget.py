"""The quality budget: how much of a score a policy may lose, and whether it holds, with statistics.

The unit is a prompt: the drop is the score of the unaccelerated video minus that of the accelerated one, same prompt, seed
and noise. The budget holds when the mean drop is below it, shown by a one-sided t bound corrected for skew (Johnson 1978,
https://doi.org/10.1080/01621459.1978.10479993): drops are skewed, a few videos break while most do not change.
"""

import math
import os
import re
import reprlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from pabtune.quality.shapes import score_clip
from pabtune.records.errors import BudgetError, first_line, one_line
from pabtune.records.trials import Verdict

ScoreFunction = Callable[[NDArray[np.uint8], str], float]

SCORES: Mapping[str, ScoreFunction] = {"shapes": lambda video, prompt: score_clip(video, prompt).score}
"""Known scores by name: from a video (F, H, W, 3) and its prompt to 0..100, higher is better."""

NO_SCORE = "none"
"""An evaluation without a score: speed and fidelity only."""

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
        """Reads `SCORE>=-DROP`, for example `shapes>=-1.0`.

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


def find_score(name: str) -> ScoreFunction:
    """A known score, or a user's function given as `module:function`.

    Args:
        name: for example `shapes`, or `my_scores:aesthetics` for `aesthetics(video, prompt)` in `my_scores.py`, which gets a
            video (F, H, W, 3) of bytes and its prompt, and returns 0..100, higher is better: a number, or an array or a
            tensor of one.

    Raises:
        BudgetError: there is no such score; a call of what is returned raises it, where it is not a number.
    """
    if name in SCORES:
        return SCORES[name]
    module, colon, function = name.partition(":")
    if not colon:
        raise BudgetError(f"unknown score {name!r}; known scores: {', '.join(SCORES)}; or your own: module:function")
    try:
        with _current_folder_importable():
            found = getattr(import_module(module), function)
    except (Exception, SystemExit) as error:  # noqa: BLE001, importing runs the user's code
        raise BudgetError(f"cannot load the score {name!r}: {type(error).__name__}: {first_line(error)}") from error
    if not callable(found):
        raise BudgetError(f"cannot load the score {name!r}: it is no function, but {type(found).__name__}")
    return partial(_score_of_user, name, found)


@contextmanager
def _current_folder_importable() -> Iterator[None]:
    """Modules of the current folder can be imported: an installed command does not look there. Installed ones come first."""
    folder = os.getcwd()
    sys.path.append(folder)
    try:
        yield
    finally:
        sys.path.reverse()  # `remove` takes the first one, which may be another's
        sys.path.remove(folder)
        sys.path.reverse()


def _score_of_user(name: str, function: Callable[..., Any], video: NDArray[np.uint8], prompt: str) -> float:
    """What a user's function says of a video, which it gets a copy of.

    Raises:
        BudgetError: the function fails, or returns anything but a finite number; the message names score and prompt.
    """
    try:
        value = function(video.copy(), prompt)
    except (Exception, SystemExit) as error:  # noqa: BLE001, it is the user's code
        what = f"{type(error).__name__}: {first_line(error)}"
        raise BudgetError(f"the score {name!r} failed on the prompt {_short(prompt)}: {what}") from error
    try:
        if isinstance(value, str | bytes):
            raise TypeError
        number = float(value.item() if isinstance(value, np.ndarray) else value)
    except Exception as error:  # noqa: BLE001, what is returned may be of a class of the user's
        raise BudgetError(
            f"the score {name!r} must return a number, but for the prompt {_short(prompt)} it returned "
            f"{type(value).__name__}: {reprlib.repr(value)}"
        ) from error
    if not math.isfinite(number):
        raise BudgetError(
            f"the score {name!r} must return a finite number, but for the prompt {_short(prompt)} it returned {number}"
        )
    return number


def _short(prompt: str) -> str:
    return one_line(repr(prompt), 120)


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
