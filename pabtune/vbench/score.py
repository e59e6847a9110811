"""Scoring videos: one dimension after the other, what is known is not computed again, and nothing incomplete counts."""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from pabtune.records.errors import VbenchError
from pabtune.vbench.aggregate import can_total, group_score, points, total_score
from pabtune.vbench.cache import ScoreCache, Subject
from pabtune.vbench.dimensions import Dimension
from pabtune.vbench.environment import Environment, Lock
from pabtune.vbench.process import answers, last_line
from pabtune.vbench.suites import OwnPrompt
from pabtune.vbench.videos import Video

COMPUTING_PACKAGES = (
    "vbench", "torch", "torchvision", "transformers", "timm", "pyiqa", "openai-clip", "fairscale", "numpy", "opencv-python",
    "decord", "pillow", "detectron2",
)  # fmt: skip
"""Packages whose versions scores depend on."""

Advance = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class DimensionScore:
    """Values of one dimension, one for each requested video.

    Attributes:
        dimension: which.
        values: per video, in the order of the request, on the scale of the mean; None = VBench left the video out.
        videos: number of requested videos.
        reused: how many were known before.
    """

    dimension: Dimension
    values: tuple[float | None, ...]
    videos: tuple[Video, ...]
    reused: int

    @property
    def raw(self) -> float:
        """Mean over the videos that have a value.

        Each video counts the same, as in VBench's runs on several GPUs; on a single one, three dimensions average over frames.
        """
        values = [value for value in self.values if value is not None]
        return math.fsum(values) / len(values)

    def to_document(self) -> dict[str, Any]:
        """What `pabtune vbench score --json` prints of a dimension."""
        return {
            "raw": self.raw,
            "points": points(self.dimension.name, self.raw),
            "videos": len(self.videos),
            "left_out": sum(value is None for value in self.values),
            "reused": self.reused,
            "values": {video.path.name: value for video, value in zip(self.videos, self.values, strict=True)},
        }


@dataclass(frozen=True, slots=True)
class Scorer:
    """Scores videos in an environment, on a device; a dimension that takes longer than its minutes is killed."""

    environment: Environment
    lock: Lock
    device: str
    suites: Mapping[str, OwnPrompt]
    timeout_minutes: float | None = None

    def score(self, dimension: Dimension, videos: Sequence[Video], advance: Advance) -> DimensionScore:
        """Values of all videos in a dimension, of which one at least must have one.

        Args:
            dimension: which; its files must be there.
            videos: which.
            advance: is told how many videos of how many have a value.

        Raises:
            VbenchError: as `values`, or VBench left out all videos.
            FileError: a score cannot be written.
        """
        found = self.values(dimension, videos, advance)
        if all(value is None for value in found.values):
            raise VbenchError(f"{dimension.name}: VBench left out all {len(videos)} videos")
        return found

    def values(self, dimension: Dimension, videos: Sequence[Video], advance: Advance) -> DimensionScore:
        """Values of all videos in a dimension; those that are new are kept as soon as they come.

        Args:
            dimension: which; its files must be there.
            videos: which.
            advance: is told how many videos of how many have a value.

        Raises:
            VbenchError: a video has no finite value, or VBench's process died. What was scored is kept, and is not computed
                again by the next call.
            FileError: a score cannot be written.
        """
        cache = ScoreCache(self.environment.scores)
        subjects = [self.subject(dimension, video) for video in videos]
        open_ones = {
            subject.key: (subject, video)
            for subject, video in zip(subjects, videos, strict=True)
            if not cache.holds(subject)
        }
        reused = sum(subject.key not in open_ones for subject in subjects)
        advance(reused, len(videos))
        if open_ones:
            self._score_new(
                dimension, list(open_ones.values()), cache, lambda done: advance(reused + done, len(videos))
            )
        values = tuple(cache.load(subject) for subject in subjects)
        advance(len(videos), len(videos))
        return DimensionScore(dimension=dimension, values=values, videos=tuple(videos), reused=reused)

    def knows(self, dimension: Dimension, video: Video) -> bool:
        """Whether a video's value in a dimension is known: its file is not read again."""
        return ScoreCache(self.environment.scores).holds(self.subject(dimension, video))

    def subject(self, dimension: Dimension, video: Video) -> Subject:
        """What a score of a video depends on."""
        return Subject(
            dimension=dimension.name,
            video=video.sha256,
            prompt=None if dimension.reads == "frames" else video.prompt,
            device=self.device.split(":")[0],
            packages={name: self.lock.packages[name] for name in COMPUTING_PACKAGES if name in self.lock.packages},
            weights={name: self.lock.weights[name] for name in dimension.files},
        )

    def _score_new(
        self,
        dimension: Dimension,
        tasks: Sequence[tuple[Subject, Video]],
        cache: ScoreCache,
        advance: Callable[[int], None],
    ) -> None:
        """Scores videos that are not known, in a process of their own."""
        log = self.environment.log(f"{dimension.name}-{os.getpid()}")  # workers of a search score beside each other
        problems: dict[int, str] = {}
        scored: set[int] = set()
        finished = False
        request = self._request(dimension, tasks)
        with closing(answers(self.environment, request, log, self.timeout_minutes)) as lines:
            for answer in lines:
                if "failed" in answer:
                    kept = f"{len(scored)} of {len(tasks)} videos are kept; " if scored else ""
                    raise VbenchError(f"{dimension.name}: {answer['failed']}; {kept}all of it is in {log}")
                if "done" in answer:
                    finished = True
                    continue
                index, value = answer["video"], _value_of(answer, dimension)
                if isinstance(value, str):
                    problems[index] = value
                else:
                    cache.save(tasks[index][0], value)
                    scored.add(index)
                advance(len(scored))
        if problems:
            index, problem = min(problems.items())
            raise VbenchError(
                f"{dimension.name}: {len(problems)} of {len(tasks)} new videos have no value, so that none counts; "
                f"{tasks[index][1].path}: {problem}"
            )
        if not finished or len(scored) < len(tasks):
            raise VbenchError(
                f"{dimension.name}: VBench's process ended after {len(scored)} of {len(tasks)} videos, which are kept; "
                f"run the same command again; its last words: {last_line(log)}"
            )
        log.replace(self.environment.log(dimension.name))

    def _request(self, dimension: Dimension, tasks: Sequence[tuple[Subject, Video]]) -> dict[str, Any]:
        return {
            "do": "score",
            "dimension": dimension.name,
            "device": self.device,
            "videos_at_once": dimension.videos_at_once,
            "videos": [
                {
                    "path": str(video.path),
                    "prompt": video.prompt,
                    "annotation": dict(self.suites[video.prompt].annotation) if video.prompt in self.suites else {},
                }
                for _, video in tasks
            ],
        }


def _value_of(answer: Mapping[str, Any], dimension: Dimension) -> float | str | None:
    """The value of an answer, on the scale of the mean; None = left out as the dimension may; a text = why there is none."""
    value = answer["value"]
    if value is None:
        if answer.get("problem"):
            return str(answer["problem"])
        return None if dimension.may_abstain else "VBench left it out without a word: it has no frames that can be read"
    if not math.isfinite(value):
        return f"VBench's value is {value}"
    return float(value) * dimension.unit


def summarize(scores: Sequence[DimensionScore]) -> dict[str, float | None]:
    """Quality, semantic and total score, in points; None where a dimension is missing for it."""
    raw = {score.dimension.name: score.raw for score in scores}
    quality = group_score("quality", raw) if can_total("quality", raw) else None
    semantic = group_score("semantic", raw) if can_total("semantic", raw) else None
    total = None if quality is None or semantic is None else total_score(raw)
    return {"quality": quality, "semantic": semantic, "total": total}
