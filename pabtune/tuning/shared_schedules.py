"""Fitted schedules of a study, which one worker fits for all: all must mean the same by the number of a schedule."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline

from pabtune.records.errors import FitError, PabtuneWarning, StudyError
from pabtune.records.profiles import Profile
from pabtune.records.prompts import Prompt, digest_prompts
from pabtune.records.schedules import CHOSEN_BY, FittedSoFar, Schedule, load_schedules, save_schedules
from pabtune.runtime.weights import weights_digest
from pabtune.tuning.candidates import first_prompts, interleaved
from pabtune.tuning.engine_masks import EngineMasks
from pabtune.tuning.generation import Progress, Settings
from pabtune.tuning.once import done_once
from pabtune.tuning.references import describe_argument, describe_scheduler
from pabtune.tuning.request import SearchConfig, short_name
from pabtune.tuning.schedules import FewVideos, find_schedules, known_surrogate
from pabtune.tuning.videos import MOST_FITTED_PROMPTS, VideoPlan


def schedules_of(  # noqa: PLR0913, PLR0917, fitting depends on all of it
    pipeline: DiffusionPipeline,
    profile: Profile,
    prompts: Sequence[Prompt],
    settings: Settings,
    config: SearchConfig,
    on_schedule: Progress | None = None,
    plan: VideoPlan | None = None,
    few: FewVideos | None = None,
) -> list[Schedule]:
    """Schedules of whole calls for a search, which another run or worker may have fitted already; none if none can be.

    Args:
        pipeline: the model.
        profile: of it.
        prompts: of the search.
        settings: how videos are generated.
        config: of the search.
        on_schedule: told how many of how many are fitted.
        plan: how many of the prompts are fitted on; None = as many as are of use.
        few: keeps it to few videos.

    Raises:
        StudyError: the search is for an engine that runs nothing else, and no mask could be ranked.
    """
    engine = config.engine
    if not config.schedule_shares or config.batch_size < 1 or (engine is not None and engine.held == "attention"):
        return []
    unit = None if engine is None else EngineMasks.of(engine, profile.sites, config.catalog)
    fitted = first_prompts(prompts, MOST_FITTED_PROMPTS if plan is None else plan.fitted)
    request = [
        CHOSEN_BY, profile.digest, weights_digest(pipeline), describe_scheduler(pipeline), digest_prompts(prompts),
        settings.batch_size, config.seed,
        describe_argument(dict(settings.arguments)), list(config.schedule_shares),
        *([config.is_refined] if few is None else [config.videos, str(config.floor), str(config.budget)]),
        *([] if engine is None else [config.engine_name]),
    ]  # fmt: skip
    path = config.folder / f"schedules-{short_name(request)}.json"
    kept = FittedSoFar(path.with_suffix(".part.json"))
    find = partial(
        find_schedules, pipeline, interleaved(fitted, settings.batch_size), settings, config.seed, config.schedule_shares,
        on_schedule, config.catalog, few, known_surrogate(pipeline, profile, settings, config.content), unit=unit,
        is_refined=config.is_refined, kept=kept,
    )  # fmt: skip
    schedules = shared_schedules(config.storage, path, find, config.team.is_leader)
    kept.forget()
    if unit is not None and not schedules:
        raise StudyError(f"no mask for {config.engine_name} could be ranked on this model, and it runs nothing else")
    return schedules


def shared_schedules(
    storage: str, path: Path, find: Callable[[], Sequence[Schedule]], may_fit: bool = True
) -> list[Schedule]:
    """The schedules that the storage holds under the file's name; else those of the file, else newly fitted ones.

    Args:
        storage: of the study.
        path: file in the study's folder, written if it is not there.
        find: fits them.
        may_fit: whether this worker may do it; if not, it waits for another one.
    """

    def known_or_fitted() -> list[dict[str, Any]]:
        schedules = load_schedules(path)
        if schedules is None:
            try:
                schedules = list(find())
            except FitError as error:
                warnings.warn(f"{error}; the search goes on without whole calls", PabtuneWarning, stacklevel=2)
                schedules = []
        return [asdict(each) for each in schedules]

    documents = done_once(storage, path.stem, known_or_fitted, may_fit)
    schedules = [Schedule.from_document(each) for each in documents]
    if load_schedules(path) != schedules:
        save_schedules(path, schedules)
    return schedules
