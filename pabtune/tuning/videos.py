"""How many videos a search may generate, how many it has generated, and what it spends them on.

Knows numbers of videos; knows nothing of pipelines, schedules or trials.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from uuid import uuid4

from pabtune.records.errors import StudyError
from pabtune.records.files import write_atomically

MOST_FITTED_PROMPTS, MOST_FITTED_OF_LIMITED = 24, 12
"""Most prompts whose full runs are recorded, and under a limit of videos.

What is fitted step by step gains nothing from more than 12, what is refined does (docs/log.md)."""

LEAST_PROMPTS = 2
"""Fewest prompts that are fitted on, and that are confirmed on, under a limit."""

MANY_VIDEOS, WIDE_VIDEOS = 200, 600
"""From so many videos on confirmation may take half of them; and several schedules are fitted for each number of steps."""

CONFIRMED_SHARE, CONFIRMED_SHARE_OF_MANY = 0.4, 0.5
"""Share of the videos that confirmation may take, of few and of many."""

RIVAL = 0.5
"""Videos that a run of fewer steps beside a finalist takes, for each prompt; its number of steps is not known before."""

PER_JUDGED = 2.0
"""Videos for each prompt of a verdict: the full run and the policy's."""

FEWEST_COMPARED, COMPARED_SHARE = 1, 0.04
"""Prompts that finalists are compared on under a limit: at least so many, and so many of all videos."""

COUNTED_FLOPS = 1.0
"""Videos in which FLOPs of the full run are counted, before any comparison and verdict."""

OnVideos = Callable[[float, float | None], None]
"""Told how many videos were generated, and of how many."""


@dataclass(slots=True, kw_only=True)
class VideoMeter:
    """Counts the videos that a search generates. A run of fewer denoising steps counts by its share of them.

    Attributes:
        steps: denoising steps of a full run.
        limit: videos that may be generated at most, by all workers and runs; None = any number.
        path: file for the count of this meter; None = it is not kept. Those of earlier runs and other processes are beside it.
        on_videos: told after every call of the pipeline.
        generated: counted by this meter.
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
        path = folder / f"videos-{request}-{uuid4().hex}.json"  # hosts and processes have names that come back
        return cls(steps=steps, limit=limit, path=path, on_videos=on_videos)

    @property
    def total(self) -> float:
        """Videos of this meter, of earlier runs and of other processes."""
        if self.path is None:
            return self.generated
        request = self.path.name.rpartition("-")[0]
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
        videos = prompts * steps / self.steps
        if self.limit is not None and self.total + videos > self.limit + 1e-6:
            raise StudyError(
                f"{self.total:.0f} of {self.limit} videos are generated, by earlier runs of the search too, and the next call "
                "does not fit in; a search with more videos begins anew"
            )
        self.generated += videos
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
        compared: prompts that finalists are compared on.
        judged: prompts for a verdict that are paid for before trials are; what is left in the end goes there too.
        finalists: most candidates that are compared.
        is_wide: whether there is enough for several schedules for each number of computed steps.
        warm_up: videos of one warm-up.
    """

    fitted: int
    searched: int
    compared: int
    judged: int
    finalists: int
    is_wide: bool
    warm_up: float = 0.0

    @property
    def before_verdict(self) -> float:
        """Videos before the first one of a verdict."""
        return self.warm_up

    def confirmation(self, presets: int) -> float:
        """Videos that a confirmation takes at most, beside so many presets (0 or 1)."""
        judged = self.before_verdict + self.judged * PER_JUDGED
        return _comparison(self.compared, self.finalists, presets, self.warm_up) + judged

    def least(self, presets: int) -> float:
        """Videos of a search that fits two schedules and tries none out: warm-up, full runs, probes, fits, confirmation."""
        return self.warm_up + self.fitted * (4 + presets) + self.confirmation(presets)


def _comparison(compared: int, finalists: int, presets: int, warm_up: float) -> float:
    """Videos of a comparison: FLOPs of the full run and of the run of fewer steps beside each finalist, the warm-up, and for
    each prompt the full run, presets, finalists, and these runs of fewer steps.
    """
    once = COUNTED_FLOPS + finalists * RIVAL + warm_up
    return once + compared * (1 + presets + finalists * (1 + RIVAL))


def plan_videos(  # noqa: PLR0913, PLR0917, numbers of all that is planned
    limit: int | None, searched: int, compared: int, judged: int, presets: int, finalists: int, warm_up: float = 1.0
) -> VideoPlan:
    """What a search with so many videos does.

    Args:
        limit: videos that may be generated at most; None = any number.
        searched: prompts to search with.
        compared: prompts to compare finalists on.
        judged: prompts for the verdict.
        presets: presets of the floor, 0 or 1.
        finalists: most candidates that are compared where videos do not matter.
        warm_up: videos of one warm-up.

    Raises:
        StudyError: too few videos for any search.
    """
    if limit is None:
        fitted = min(MOST_FITTED_PROMPTS, searched)
        return VideoPlan(
            fitted=fitted, searched=searched, compared=compared, judged=judged, finalists=finalists, is_wide=True,
            warm_up=warm_up,
        )  # fmt: skip
    of_all = partial(
        _limited, searched=searched, compared=compared, judged=judged, presets=presets, finalists=finalists,
        warm_up=warm_up,
    )  # fmt: skip
    least_judged = min(LEAST_PROMPTS, judged)

    def is_enough(videos: int) -> bool:
        plan = of_all(videos)
        return plan.judged >= least_judged and plan.least(presets) <= videos

    if not is_enough(limit):
        raise StudyError(
            f"{limit} videos are too few for a search; it needs at least {next(filter(is_enough, count(limit)))}"
        )
    return of_all(limit)


def _limited(
    limit: int, *, searched: int, compared: int, judged: int, presets: int, finalists: int, warm_up: float
) -> VideoPlan:  # fmt: skip
    """The plan for a limit, whether or not that is enough: few videos are better spent on one finalist."""
    fitted = min(MOST_FITTED_OF_LIMITED, searched, max(LEAST_PROMPTS, limit // 10))
    share = CONFIRMED_SHARE if limit < MANY_VIDEOS else CONFIRMED_SHARE_OF_MANY
    most = 1 if limit < MANY_VIDEOS else min(2, finalists) if limit < WIDE_VIDEOS else finalists
    compared = min(compared, max(FEWEST_COMPARED, int(COMPARED_SHARE * limit)))
    left = share * limit - _comparison(compared, most, presets, warm_up) - warm_up
    return VideoPlan(
        fitted=fitted, searched=fitted, compared=compared, judged=max(0, min(judged, int(left / PER_JUDGED))),
        finalists=most, is_wide=limit >= WIDE_VIDEOS, warm_up=warm_up,
    )  # fmt: skip
