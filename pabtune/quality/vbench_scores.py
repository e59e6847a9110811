"""VBench's scores as scores of a budget: points of each video, many videos in one process.

- `vbench:DIMENSION`: a dimension's value on the leaderboard's scale (`vbench/aggregate.py`), so that points of one are points
  of another.
- `vbench-quality`: the weighted mean of the quality dimensions but `dynamic_degree`, for any prompts. That one says yes or no
  of each video, and most of the noise would be its own. Watch it by itself: `vbench:dynamic_degree`.
- `vbench`: the total score, for prompts of VBench's own suites. It is a weighted sum of means, each over the suite of a
  dimension. A prompt gets its share of that sum, times the number of all prompts: then the mean over all prompts is the total,
  and the drops of prompts can be paired as any score's.

Videos are handed over without loss, in H.264 files of RGB; small ones are enlarged pixel by pixel, as `pabtune generate` does.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pabtune.catalog.frame_rates import USUAL_RATE
from pabtune.quality.enlarging import enlarge, enlargement
from pabtune.quality.ffmpeg import call_ffmpeg, find_ffmpeg, frames_input, scratch_folder
from pabtune.records.errors import BudgetError, FileError, VbenchError
from pabtune.vbench.aggregate import SCALES, points, total_weights
from pabtune.vbench.dimensions import DIMENSIONS, Dimension, find_dimensions
from pabtune.vbench.doctor import examine
from pabtune.vbench.environment import Environment, default_home, lock_weights
from pabtune.vbench.score import Scorer
from pabtune.vbench.suites import OwnPrompt, check_annotated, is_in_suite, load_suites
from pabtune.vbench.videos import SUFFIX, Video

TOTAL, QUALITY = NAMES = ("vbench", "vbench-quality")
"""Scores of several dimensions."""

GUARD = "dynamic_degree"
"""The quality dimension that `vbench-quality` leaves out."""

LEAST_SIDE = 192
"""Shorter sides are enlarged to at least this many pixels."""

LOSSLESS = ("-an", "-c:v", "libx264rgb", "-preset", "veryfast", "-qp", "0")
"""Arguments of ffmpeg; OpenCV and decord, which VBench reads with, give back the same bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A dimension's part of a score: its weight, and the prompts whose videos it looks at."""

    dimension: Dimension
    weight: float
    prompts: frozenset[str]


class VbenchScore:
    """One of VBench's scores.

    Args:
        name: `vbench`, `vbench-quality`, or `vbench:DIMENSION`.
        environment: where VBench is installed; None = where `pabtune vbench setup` puts it.
        device: that its networks run on.

    Raises:
        BudgetError: VBench has no such dimension.
    """

    def __init__(self, name: str, environment: Environment | None = None, device: str = "cpu") -> None:
        self.name = name
        self.version = None
        self.is_of_all = name == TOTAL
        self._environment = environment or Environment(default_home())
        self._device = device
        self._scorer: Scorer | None = None
        try:
            self._dimensions = find_dimensions(_names(name))
        except VbenchError as error:
            raise BudgetError(f"the score {name!r}: {error}") from error

    def open(
        self, prompts: Sequence[str], frames_per_second: int = USUAL_RATE
    ) -> Callable[[Sequence[NDArray[np.uint8]], Sequence[str]], list[float]]:
        """Looks whether all its dimensions can run and take these prompts; the files are looked at once.

        Args:
            prompts: the prompts.
            frames_per_second: of the videos; `dynamic_degree` looks at 8 a second.

        Raises:
            BudgetError: VBench is not installed, a dimension cannot run, or does not take a prompt.
        """
        scorer, parts = self._opened(prompts)
        known = frozenset(prompts)

        def score_videos(videos: Sequence[NDArray[np.uint8]], texts: Sequence[str]) -> list[float]:
            for other in set(texts) - known:
                raise ValueError(f"the score {self.name!r} was opened for other prompts than {other!r}")
            return self._score(scorer, parts, videos, texts, frames_per_second)

        return score_videos

    def scale(self, prompts: Sequence[str]) -> float:
        """Points between the worst and the best video of one of these prompts, which is often more than 100.

        A dimension's points are not clipped: raw values of 0 and 1 lie outside of most scales. Of the total, a prompt has its
        share times the number of all prompts, and suites are of unlike sizes.

        Raises:
            BudgetError: as `open`.
        """
        _, parts = self._opened(prompts)
        spans = {part.dimension.name: SCALES[part.dimension.name].span for part in parts}
        return max(
            sum(part.weight * spans[part.dimension.name] for part in parts if each in part.prompts)
            for each in set(prompts)
        )

    def _opened(self, prompts: Sequence[str]) -> tuple[Scorer, list[Part]]:
        """What scores videos of these prompts, and what each dimension contributes."""
        try:
            scorer = self._scorer = self._scorer or self._find_scorer()
            for dimension in self._dimensions:
                if not self.is_of_all:
                    check_annotated(prompts, dimension, scorer.suites)
        except FileError:
            raise
        except VbenchError as error:
            raise BudgetError(f"the score {self.name!r}: {error}") from error
        return scorer, self._parts(prompts, scorer.suites)

    def _find_scorer(self) -> Scorer:
        lock = lock_weights(self._environment)
        for diagnosis in examine(self._environment, self._dimensions, imports=False):
            if not diagnosis.can_run:
                name, why = diagnosis.dimension.name, diagnosis.reasons[0]
                raise VbenchError(f"{name} cannot run: {why}; all that is missing: pabtune vbench doctor")
        return Scorer(self._environment, lock, self._device, load_suites(self._environment))

    def _parts(self, prompts: Sequence[str], suites: dict[str, OwnPrompt]) -> list[Part]:
        """What each dimension contributes to the points of a prompt's video."""
        if not self.is_of_all:
            weight = sum(SCALES[each.name].weight for each in self._dimensions)
            return [
                Part(dimension=each, weight=SCALES[each.name].weight / weight, prompts=frozenset(prompts))
                for each in self._dimensions
            ]
        others = [prompt for prompt in prompts if prompt not in suites]
        if others:
            raise BudgetError(
                f"the score {TOTAL!r} is of VBench's own prompts, but {len(others)} of {len(prompts)} are others, the first "
                f"is {others[0]!r}; for any prompts there is {QUALITY!r}"
            )
        parts, weights = [], total_weights()
        for each in self._dimensions:
            suite = [prompt for prompt in prompts if is_in_suite(prompt, each, suites)]
            if not suite:
                raise BudgetError(
                    f"the score {TOTAL!r} needs prompts of every dimension's suite, but none of these {len(prompts)} is of "
                    f"{each.name}; give all of VBench's prompts, or use {QUALITY!r}"
                )
            weight = weights[each.name] * len(prompts) / len(suite)
            parts.append(Part(dimension=each, weight=weight, prompts=frozenset(suite)))
        return parts

    def _score(
        self,
        scorer: Scorer,
        parts: Sequence[Part],
        videos: Sequence[NDArray[np.uint8]],
        prompts: Sequence[str],
        frames_per_second: int,
    ) -> list[float]:
        """Points of each video, one process for each dimension that does not know all of them."""
        with scratch_folder() as folder:
            clips = [
                Video(path=folder / f"{index:06d}{SUFFIX}", sha256=_digest(video, frames_per_second), prompt=prompt)
                for index, (video, prompt) in enumerate(zip(videos, prompts, strict=True))
            ]
            for clip, video in zip(clips, videos, strict=True):
                if not all(scorer.knows(part.dimension, clip) for part in parts if clip.prompt in part.prompts):
                    _save(clip.path, video, frames_per_second)
            totals = dict.fromkeys(range(len(clips)), 0.0)
            for part in parts:
                chosen = {index: clip for index, clip in enumerate(clips) if clip.prompt in part.prompts}
                for index, value in zip(chosen, self._values(scorer, part, list(chosen.values())), strict=True):
                    totals[index] += part.weight * points(part.dimension.name, value)
        return list(totals.values())

    def _values(self, scorer: Scorer, part: Part, clips: Sequence[Video]) -> Iterable[float]:
        """Raw values of clips; one that a dimension leaves out, as it does not find what it looks for, is worth 0.

        VBench leaves those out of its mean: a budget would then be kept by videos in which the object is gone.
        """
        if not clips:
            return []
        try:
            found = scorer.values(part.dimension, clips, lambda done, total: None).values
        except FileError:
            raise
        except VbenchError as error:
            raise BudgetError(f"the score {self.name!r} failed: {error}") from error
        return [0.0 if value is None else value for value in found]


def _names(name: str) -> Sequence[str]:
    """Names of a score's dimensions."""
    if name == TOTAL:
        return list(DIMENSIONS)
    if name == QUALITY:
        return [each for each, scale in SCALES.items() if scale.group == "quality" and each != GUARD]
    return [name.partition(":")[2]]


def _factor(video: NDArray[np.uint8]) -> int:
    return enlargement(*video.shape[1:3], LEAST_SIDE)


def _digest(video: NDArray[np.uint8], frames_per_second: int) -> str:
    """Checksum of the frames and of all that makes a file of them."""
    how = json.dumps([list(video.shape), _factor(video), frames_per_second, LOSSLESS]).encode()
    return sha256(how + np.ascontiguousarray(video).tobytes()).hexdigest()


def _save(path: Path, video: NDArray[np.uint8], frames_per_second: int) -> None:
    """Writes a video as VBench gets to see it.

    Raises:
        MeasureError: there is no ffmpeg, or it fails.
    """
    frames = enlarge(video, _factor(video))
    arguments = [*frames_input(frames, frames_per_second), *LOSSLESS, path.name]
    call_ffmpeg(find_ffmpeg(), arguments, frames, path.parent)
