"""What a comparison keeps in its folder, so that a killed one goes on where it was: calibrations and evaluations.

A file is found again by all that decides about its numbers: weights, scheduler, arguments, steps, device and
attention kernel, prompts, method, setting.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from diffusers import DiffusionPipeline

from pabtune.libraries.diffusers_internals import execution_device
from pabtune.records.comparisons import CalibrationCost, unpack_evaluation
from pabtune.records.evaluations import Evaluation
from pabtune.records.files import as_file_name, digest, save_json
from pabtune.records.prompts import Prompt
from pabtune.runtime.attention import attention_in_use
from pabtune.runtime.weights import weights_digest
from pabtune.tuning.evaluate import score_on
from pabtune.tuning.generation import Settings
from pabtune.tuning.provenance import device_name, versions
from pabtune.tuning.references import describe_argument, describe_scheduler

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibrated:
    """What a method measured of the model, as JSON, and what that took."""

    values: Any
    cost: CalibrationCost


class ComparisonFolder:
    """Calibrations and evaluations of one model and one set of settings; others may lie beside them.

    Args:
        folder: where the files lie.
        pipeline: the model.
        settings: how videos are generated.
        score: name of the absolute score; a user's counts with the file that it is in.

    Raises:
        BudgetError: there is no such score.
    """

    def __init__(self, folder: Path, pipeline: DiffusionPipeline, settings: Settings, score: str) -> None:
        found = score_on(pipeline, score)
        self._folder = folder
        self._key = [
            weights_digest(pipeline),
            describe_scheduler(pipeline),
            describe_argument(dict(settings.arguments)),
            [settings.steps, settings.batch_size, score, found and found.version],
            [device_name(execution_device(pipeline)), attention_in_use()],
            versions(),
        ]

    def calibration(self, method: str, settings: Sequence[float], prompts: Sequence[Prompt]) -> Calibrated | None:
        """What a method was calibrated to for its settings; None if it was not."""
        return _read(
            self._path("calibrations", method, list(settings), prompts),
            lambda document: Calibrated(values=document["values"], cost=CalibrationCost(**document["cost"])),
        )

    def keep_calibration(
        self, method: str, settings: Sequence[float], prompts: Sequence[Prompt], calibrated: Calibrated
    ) -> None:
        """Writes what a method was calibrated to."""
        save_json(self._path("calibrations", method, list(settings), prompts), asdict(calibrated))

    def evaluation(self, method: str, setting: float, values: Any, prompts: Sequence[Prompt]) -> Evaluation | None:
        """The evaluation of a method at a setting; None if there is none.

        Args:
            method: its name.
            setting: of its knob.
            values: what it was calibrated to.
            prompts: the prompts.
        """
        return _read(self._path("evaluations", method, [setting, values], prompts), unpack_evaluation)

    def keep_evaluation(
        self, method: str, setting: float, values: Any, prompts: Sequence[Prompt], evaluation: Evaluation
    ) -> None:
        """Writes the evaluation of a method at a setting."""
        save_json(self._path("evaluations", method, [setting, values], prompts), asdict(evaluation))

    def _path(self, kind: str, method: str, what: Any, prompts: Sequence[Prompt]) -> Path:
        key = [self._key, method, what, [[each.prompt, each.content, each.seed] for each in prompts]]
        return self._folder / kind / f"{as_file_name(method)}-{digest(key).removeprefix('sha256:')[:24]}.json"


def _read(path: Path, unpack: Callable[[Any], T]) -> T | None:
    """What a file holds; None if there is none, or it is broken or of another version."""
    try:
        return unpack(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError):
        return None
