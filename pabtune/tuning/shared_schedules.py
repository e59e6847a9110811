"""Fitted schedules of a study, which one worker fits for all: all must mean the same by the number of a schedule."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pabtune.records.errors import ModelError, PabtuneWarning
from pabtune.records.schedules import Schedule, load_schedules, save_schedules
from pabtune.tuning.once import done_once


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
            except ModelError as error:
                warnings.warn(f"{error}; the search goes on without whole calls", PabtuneWarning, stacklevel=2)
                schedules = []
        return [asdict(each) for each in schedules]

    documents = done_once(storage, path.stem, known_or_fitted, may_fit)
    schedules = [Schedule.from_document(each) for each in documents]
    if load_schedules(path) != schedules:
        save_schedules(path, schedules)
    return schedules
