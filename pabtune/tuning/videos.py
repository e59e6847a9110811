"""How many videos a search may generate, how many it has generated, and what it spends them on.

Knows numbers of videos; knows nothing of pipelines, schedules or trials.
"""

import json
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from pabtune.quality.budget import LEAST_ACCEPTED_PROMPTS
from pabtune.records.errors import StudyError
from pabtune.records.files import write_atomically

MOST_FITTED_PROMPTS = 12
"""Most prompts whose full runs are recorded: with 24 nothing was gained (docs/log.md)."""

LEAST_PROMPTS = 2
"""Fewest prompts that are fitted on, and that are confirmed on, under a limit."""

CONFIRMED_SHARE = 0.4
"""Share of the videos that confirmation may take."""

WIDE_VIDEOS = 200
"""From this many videos on, several schedules are tried for each number of computed steps."""

RIVAL = 0.5
"""Videos that a run of fewer steps beside a finalist takes, for each prompt; its number of steps is not known before."""

COUNTED_FLOPS = 2.0
"""Videos in which FLOPs are counted, of the full run and of the run of fewer steps."""

OnVideos = Callable[[float, float | None], None]
"""Told how many videos were generated, and of how many."""


@dataclass(slots=True, kw_only=True)
class VideoMeter:
    """Counts the videos that a search generates. A run of fewer denoising steps counts by its share of them.

    Attributes:
        steps: denoising steps of a full run.
        limit: videos that may be generated at most, by all workers and runs; None = any number.
        path: file for the count of this process; None = it is not kept. Files of other processes stand beside it.
        on_videos: told after every call of the pipeline.
        generated: by this process.
    """

    steps: int
    limit: int | None = None
    path: Path | None = None
    on_videos: OnVideos | None = None
    generated: float = field(default=0.0, init=False)

    @classmethod
    def in_folder(
        cls, folder: Path, request: str, steps: int, limit: int | None, on_videos: OnVideos | None = None
    ) -> "VideoMeter":
        """A meter that goes on from what earlier runs and other processes with the same request counted in a folder.

        Args:
            folder: the folder.
            request: what is asked for, as a part of a file's name.
            steps: denoising steps of a full run.
            limit: videos that may be generated at most; None = any number.
            on_videos: told after every call of the pipeline.
        """
        path = folder / f"videos-{request}-{socket.gethostname()}-{os.getpid()}.json"
        return cls(steps=steps, limit=limit, path=path, on_videos=on_videos)

    @property
    def total(self) -> float:
        """Videos of this process, of earlier runs and of other processes."""
        if self.path is None:
            return self.generated
        request = self.path.name.rsplit("-", 2)[0]
        others = (path for path in self.path.parent.glob(f"{request}-*.json") if path != self.path)
        return self.generated + sum(_count_in(path) for path in others)

    @property
    def left(self) -> float | None:
        """Videos that may still be generated; None = any number."""
        return None if self.limit is None else self.limit - self.total

    def add(self, prompts: int, steps: int) -> None:
        """Counts a call of the pipeline, before it generates.

        Args:
            prompts: videos that it will generate.
            steps: its denoising steps.

        Raises:
            StudyError: more than may be generated.
        """
        count = prompts * steps / self.steps
        if self.limit is not None and self.total + count > self.limit + 1e-6:
            raise StudyError(
                f"{self.total:.0f} of {self.limit} videos are generated, and the search is not at its end; allow more videos"
            )
        self.generated += count
        if self.path is not None:
            text = json.dumps({"videos": self.generated})
            write_atomically(self.path, lambda partial: partial.write_text(text, encoding="utf-8"))
        if self.on_videos is not None:
            self.on_videos(self.total, self.limit)


def _count_in(path: Path) -> float:
    try:
        return float(json.loads(path.read_text(encoding="utf-8"))["videos"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoPlan:
    """What a search spends its videos on.

    Attributes:
        fitted: prompts that schedules are fitted on.
        searched: prompts that trials are measured on.
        unseen: prompts that finalists are confirmed on.
        probed: prompts on which gains are measured.
        candidates: most schedules that are fitted for a number of computed steps.
        bisects: whether numbers of computed steps are bisected, rather than tried one by one.
        finalists: most candidates that are confirmed.
    """

    fitted: int
    searched: int
    unseen: int
    probed: int
    candidates: int
    bisects: bool
    finalists: int

    def confirmation(self, presets: int, finalists: int | None = None) -> float:
        """Videos that a confirmation takes at most.

        Args:
            presets: presets that are evaluated beside the finalists, 0 or 1.
            finalists: candidates that are confirmed; None = as many as may be.
        """
        count = self.finalists if finalists is None else finalists
        return self.unseen * _per_unseen(count, presets) + COUNTED_FLOPS


def _per_unseen(finalists: int, presets: int) -> float:
    """Videos for each unseen prompt: full run, warm-up, finalists, presets, and a run of fewer steps for each finalist."""
    return 1.25 + finalists * (1 + RIVAL) + presets


def plan_videos(limit: int | None, searched: int, unseen: int, presets: int, finalists: int, probes: int) -> VideoPlan:
    """What a search with so many videos does.

    Args:
        limit: videos that may be generated at most; None = any number.
        searched: prompts to search with.
        unseen: prompts to confirm on.
        presets: presets of the floor, 0 or 1.
        finalists: most candidates that are confirmed where videos do not matter.
        probes: steps at which gains are measured.

    Raises:
        StudyError: too few videos for any search.
    """
    if limit is None:
        fitted = min(MOST_FITTED_PROMPTS, searched)
        return VideoPlan(
            fitted=fitted, searched=searched, unseen=unseen, probed=fitted, candidates=3, bisects=False, finalists=finalists
        )  # fmt: skip
    fitted = min(MOST_FITTED_PROMPTS, searched, max(LEAST_PROMPTS, limit // 10))
    is_wide = limit >= WIDE_VIDEOS
    for count in (finalists, 2, 1) if is_wide else (1,):
        confirmed = min(unseen, int((CONFIRMED_SHARE * limit - COUNTED_FLOPS) / _per_unseen(count, presets)))
        if confirmed >= min(LEAST_ACCEPTED_PROMPTS, unseen):
            break
    plan = VideoPlan(
        fitted=fitted, searched=fitted, unseen=confirmed, probed=min(fitted, 4) if is_wide else 1,
        candidates=3 if is_wide else 1, bisects=True, finalists=count,
    )  # fmt: skip
    least = _least(fitted, presets, probes, plan)
    if confirmed < LEAST_PROMPTS or least > limit:
        raise StudyError(f"{limit} videos are too few for a search; it needs at least {least_videos(presets, probes)}")
    return plan


def _least(fitted: int, presets: int, probes: int, plan: VideoPlan) -> float:
    """Videos of a search that fits two schedules and tries none out."""
    return 1 + fitted * (3 + presets) + probes * plan.probed + plan.confirmation(presets)


def least_videos(presets: int, probes: int) -> int:
    """The fewest videos that a search can do with."""
    for limit in range(1, WIDE_VIDEOS):
        confirmed = int((CONFIRMED_SHARE * limit - COUNTED_FLOPS) / _per_unseen(1, presets))
        plan = VideoPlan(
            fitted=max(LEAST_PROMPTS, limit // 10), searched=0, unseen=confirmed, probed=1, candidates=1, bisects=True,
            finalists=1,
        )  # fmt: skip
        if confirmed >= LEAST_PROMPTS and _least(plan.fitted, presets, probes, plan) <= limit:
            return limit
    return WIDE_VIDEOS
