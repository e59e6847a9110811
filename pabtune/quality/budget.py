"""The quality budget: how much of a score a policy may lose, and by what a trial is measured against it.

The unit is a prompt: the drop is the score of the unaccelerated video minus that of the accelerated one, same prompt, seed
and noise. Trials are ranked by a one-sided t bound of the mean drop, corrected for skew (Johnson 1978,
https://doi.org/10.1080/01621459.1978.10479993). That is no verdict (quality/verdict.py).
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

ScoreFunction = Callable[[NDArray[np.uint8], str], float]

SCORES: Mapping[str, ScoreFunction] = {"shapes": lambda video, prompt: score_clip(video, prompt).score}
"""Known scores by name: from a video (F, H, W, 3) and its prompt to 0..100, higher is better."""

NO_SCORE = "none"
"""An evaluation without a score: speed and fidelity only."""

LARGEST_LOSS = 100.0
"""Points that one video can lose at most: scores are 0..100."""

CONFIDENCE = 0.95
LEAST_JUDGED_PROMPTS = 8
"""Below this many prompts a trial is measured by its mean, not by a bound of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """The largest drop of a score that the user accepts, in points; not negative.

    Attributes:
        score: name of the score.
        largest_drop: in the mean.
        largest_loss: of one video, which a verdict relies on: by the scale of scores, unless the user knows better.
    """

    score: str
    largest_drop: float
    largest_loss: float = LARGEST_LOSS

    @classmethod
    def parse(cls, text: str, largest_loss: float = LARGEST_LOSS) -> "Budget":
        """Reads `SCORE>=-DROP`, for example `shapes>=-1.0`.

        Args:
            text: the budget.
            largest_loss: points that one video can lose at most.

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
        if largest_loss != LARGEST_LOSS and not abs(change) < largest_loss < LARGEST_LOSS:
            raise BudgetError(
                f"the largest loss of a video lies between the budget and {LARGEST_LOSS:g} points, not at {largest_loss:g}"
            )
        return cls(score=name, largest_drop=abs(change), largest_loss=largest_loss)

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
