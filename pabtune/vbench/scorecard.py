"""All scores of a folder of videos: which dimensions run, what they say, and VBench's three scores where they can be told."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pabtune.records.errors import FileError, VbenchError
from pabtune.records.prompts import Prompt
from pabtune.vbench.dimensions import (
    DIMENSIONS,
    FOR_ANY_PROMPT,
    STATIC_FILTER,
    STATIC_PER_PROMPT,
    Dimension,
    find_dimensions,
)
from pabtune.vbench.doctor import examine
from pabtune.vbench.environment import Environment, lock_weights
from pabtune.vbench.score import Advance, DimensionScore, Scorer, summarize
from pabtune.vbench.suites import check_annotated, load_suites, videos_of_suite
from pabtune.vbench.videos import Video, find_videos

FLICKER = "temporal_flickering"
"""The dimension whose protocol filters videos: what moves would count as flicker."""

Progress = Callable[[str], AbstractContextManager[Advance]]
"""Opens a progress bar with a title."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scorecard:
    """Scores of a folder.

    Attributes:
        scores: of the dimensions that count, each complete.
        not_run: dimension to why it was not run, of those that the user did not ask for by name.
        failed: dimension to why it does not count.
        official: whether each dimension was scored on its own suite, as VBench's leaderboard does.
        device: that they were computed on.
        version: of VBench.
    """

    scores: tuple[DimensionScore, ...]
    not_run: Mapping[str, str]
    failed: Mapping[str, str]
    official: bool
    device: str
    version: str

    def to_document(self) -> dict[str, Any]:
        """What `pabtune vbench score --json` prints."""
        return {
            "vbench": self.version,
            "device": self.device,
            "official": self.official,
            "dimensions": {score.dimension.name: score.to_document() for score in self.scores},
            "not_run": dict(self.not_run),
            **summarize(self.scores),
        }


def score_folder(  # noqa: PLR0913, what the command line says
    environment: Environment,
    folder: Path,
    prompts: Sequence[Prompt],
    names: Sequence[str],
    *,
    official: bool,
    device: str,
    progress: Progress,
    timeout_minutes: float | None = None,
    static_filter: bool = False,
) -> Scorecard:
    """Scores the videos of a folder, one dimension after the other; one that fails does not keep the others from counting.

    Args:
        environment: VBench's.
        folder: of the videos.
        prompts: theirs.
        names: of dimensions; empty = all that can run: of those for any prompts, or under `official` of all.
        official: whether each dimension is scored on its own suite of VBench's prompts alone.
        device: for example `cpu`, `cuda`.
        progress: shows how far a dimension is.
        timeout_minutes: that a dimension may take; one that takes longer is killed, and fails. None = any.
        static_filter: whether `temporal_flickering` counts only the first five videos of each prompt that VBench's filter
            finds static, as its protocol asks.

    Raises:
        VbenchError: videos and prompts do not pair, a dimension that was named cannot run, or none can.
        FileError: a file cannot be read, or a score not be written.
    """
    videos = find_videos(folder, prompts)
    dimensions = find_dimensions(names or (DIMENSIONS if official else FOR_ANY_PROMPT))
    lock = lock_weights(environment)
    filters = [STATIC_FILTER] if static_filter else []
    reasons = {
        each.dimension.name: each.reasons
        for each in examine(environment, [*dimensions, *filters], imports=False)
        if not each.can_run
    }
    not_run = {name: why[0] for name, why in reasons.items()}
    if not_run and (names or STATIC_FILTER.name in not_run or len(not_run) == len(dimensions)):
        name = STATIC_FILTER.name if STATIC_FILTER.name in not_run else next(iter(not_run))
        why = not_run[name]
        raise VbenchError(f"{name} cannot run: {why}; all that is missing: pabtune vbench doctor")
    suites = load_suites(environment)
    requests = {
        each: _request(videos, each, suites, official) for each in dimensions if each.name not in not_run
    }  # fmt: skip
    scorer = Scorer(environment, lock, device, suites, timeout_minutes)
    scores, failed = [], {}
    for dimension, wanted in requests.items():
        try:
            own = _static(scorer, wanted, progress) if static_filter and dimension.name == FLICKER else wanted
            with progress(dimension.name) as advance:
                scores.append(scorer.score(dimension, own, advance))
        except FileError:
            raise
        except VbenchError as error:
            failed[dimension.name] = str(error)
    return Scorecard(
        scores=tuple(scores),
        not_run=not_run,
        failed=failed,
        official=official,
        device=device,
        version=lock.packages["vbench"],
    )


def _static(scorer: Scorer, videos: Sequence[Video], progress: Progress) -> list[Video]:
    """The first five videos of each prompt that VBench's filter finds static.

    Raises:
        VbenchError: there are none, or the filter fails.
    """
    with progress(STATIC_FILTER.name) as advance:
        values = scorer.score(STATIC_FILTER, videos, advance).values
    static: dict[str, list[Video]] = {}
    for video, value in zip(videos, values, strict=True):
        if value:
            static.setdefault(video.prompt, []).append(video)
    if not static:
        raise VbenchError(
            f"{FLICKER}: VBench's filter finds none of {len(videos)} videos static; its prompts ask for still ones"
        )
    return [video for own in static.values() for video in own[:STATIC_PER_PROMPT]]


def _request(videos: list[Video], dimension: Dimension, suites: Mapping[str, Any], official: bool) -> list[Video]:
    """The videos that a dimension is to score."""
    if official:
        return videos_of_suite(videos, dimension, suites)
    check_annotated([video.prompt for video in videos], dimension, suites)
    return videos
