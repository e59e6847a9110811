"""Absolute scores by name: pabtune's own `shapes`, VBench's, and functions of users.

A score is opened for the prompts whose videos it will see, before any is generated, and then gives each of several videos its
points at once: a function of a user sees one video after the other, VBench a whole batch in a process.
"""

import hashlib
import inspect
import math
import os
import reprlib
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from pabtune.catalog.frame_rates import USUAL_RATE
from pabtune.models.shapes.captions import parse
from pabtune.quality.shapes import score_clip
from pabtune.quality.vbench_scores import NAMES, VbenchScore
from pabtune.records.errors import BudgetError, PabtuneWarning, first_line, one_line
from pabtune.vbench.environment import Environment

ScoreFunction = Callable[[NDArray[np.uint8], str], float]
"""From a video (F, H, W, 3) and its prompt to points; higher is better."""

ScoreVideos = Callable[[Sequence[NDArray[np.uint8]], Sequence[str]], list[float]]
"""From videos (F, H, W, 3) and the prompt of each to the points of each; higher is better."""


def _score_of_shapes(video: NDArray[np.uint8], prompt: str) -> float:
    """The embedded world's score.

    Raises:
        BudgetError: the video is not one of the embedded world.
    """
    try:
        return score_clip(video, prompt).score
    except ValueError as error:
        raise BudgetError(f"the score 'shapes' is for videos of the embedded model: {error}") from error


SCORES: Mapping[str, ScoreFunction] = {"shapes": _score_of_shapes}
"""Scores of one video by name, 0..100."""

CHECKS: Mapping[str, Callable[[str], object]] = {"shapes": parse}
"""What refuses prompts that a score cannot judge, before a video is made."""

LARGEST_SCORE = 100.0
"""Points of the best video."""

NO_SCORE = "none"
"""An evaluation without a score: speed and fidelity only."""


class Score(Protocol):
    """A score by name."""

    @property
    def name(self) -> str:
        """As it stands in a budget."""

    @property
    def version(self) -> str | None:
        """Checksum of what may change under the name: a user's code; None = nothing of the kind."""

    @property
    def is_of_all(self) -> bool:
        """Whether it is told by all prompts together: the mean over some of them says nothing of the mean over all."""

    def scale(self, prompts: Sequence[str]) -> float:
        """Points between the worst and the best video of one of these prompts.

        Raises:
            BudgetError: something is missing.
        """

    def open(self, prompts: Sequence[str], frames_per_second: int = USUAL_RATE) -> ScoreVideos:
        """Finds what it needs for videos of these prompts; what it returns takes videos of any of them.

        Args:
            prompts: the prompts.
            frames_per_second: of the videos.

        Raises:
            BudgetError: something is missing; a call of what is returned raises it where a video gets no points.
        """


@dataclass(frozen=True, slots=True)
class VideoScore:
    """A score of each video by itself."""

    name: str
    function: ScoreFunction
    version: str | None = None
    is_of_all: ClassVar[bool] = False

    def scale(self, prompts: Sequence[str]) -> float:
        """Points between the worst and the best video."""
        return LARGEST_SCORE

    def open(self, prompts: Sequence[str], frames_per_second: int = USUAL_RATE) -> ScoreVideos:
        """The function, for one video after the other.

        Raises:
            PromptError: it cannot judge a prompt.
        """
        check = CHECKS.get(self.name)
        for prompt in prompts if check else ():
            check(prompt)

        def score_videos(videos: Sequence[NDArray[np.uint8]], texts: Sequence[str]) -> list[float]:
            found = [self.function(video, text) for video, text in zip(videos, texts, strict=True)]
            if max(found, default=0.0) <= 1.0 and any(0.0 < each < 1.0 for each in found):
                warnings.warn(
                    f"the score {self.name!r} gives no more than one point of {LARGEST_SCORE:g}: is it on a scale of 0..1? "
                    "Budgets are in points of 0..100, and allow such a score to lose everything",
                    PabtuneWarning,
                    stacklevel=2,
                )
            return found

        return score_videos


def is_of_vbench(name: str) -> bool:
    """Whether a name is one of VBench's scores."""
    return name in NAMES or name.startswith("vbench:")


def find_score(name: str, environment: Environment | None = None, device: str = "cpu") -> Score:
    """A known score, or a user's function given as `module:function`.

    Args:
        name: for example `shapes`; `vbench:temporal_flickering`, `vbench-quality` or `vbench`; or `my_scores:aesthetics` for
            `aesthetics(video, prompt)` in `my_scores.py`, which gets a video (F, H, W, 3) of bytes and its prompt, and returns
            0..100, higher is better: a number, or an array or a tensor of one.
        environment: VBench's; None = where `pabtune vbench setup` puts it. Only its scores look at it, when they are opened.
        device: that VBench's networks run on, for example `cpu`, `cuda`.

    Raises:
        BudgetError: there is no such score; what a user's function was opened to raises it, where that returns no number of
            0..100.
    """
    if name in SCORES:
        return VideoScore(name, SCORES[name])
    module, colon, function = name.partition(":")
    if is_of_vbench(name):
        return VbenchScore(name, environment, device)
    if not colon:
        known = ", ".join((*SCORES, *NAMES, "vbench:DIMENSION"))
        raise BudgetError(f"unknown score {name!r}; known scores: {known}; or your own: module:function")
    try:
        with _current_folder_importable():
            found = getattr(import_module(module), function)
    except (Exception, SystemExit) as error:  # noqa: BLE001, importing runs the user's code
        raise BudgetError(f"cannot load the score {name!r}: {type(error).__name__}: {first_line(error)}") from error
    if not callable(found):
        raise BudgetError(f"cannot load the score {name!r}: it is no function, but {type(found).__name__}")
    return VideoScore(name, partial(_score_of_user, name, found), _version_of(found))


def _version_of(function: Callable[..., Any]) -> str | None:
    """Checksum of the file that a function is in; None if it is in none."""
    try:
        path = inspect.getsourcefile(inspect.unwrap(function))
        return None if path is None else hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except (TypeError, ValueError, OSError):
        return None


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
    if not 0.0 <= number <= LARGEST_SCORE:
        raise BudgetError(
            f"the score {name!r} must return 0..{LARGEST_SCORE:g}, which verdicts rely on, but for the prompt "
            f"{_short(prompt)} it returned {number:g}"
        )
    return number


def _short(prompt: str) -> str:
    return one_line(repr(prompt), 120)
