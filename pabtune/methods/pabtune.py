"""pabtune's own: schedules of whole calls, fitted on the calibration prompts, or policies that were found before.

What `pabtune search --front` finds: a surrogate ranks schedules, the best run, and each step's factors bring the latents back
to the full run's (`tuning/schedules.py`). Each calibration prompt is fitted with several seeds: what a few captions leave to
chance are the worst videos of others. Factors are not refined, which would take several times the videos of any other method.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from pabtune.methods.method import STEP_SHARES, Knob, Recordings
from pabtune.records.errors import PolicyError
from pabtune.records.policies import MadeFor, Policy
from pabtune.records.schedules import Schedule
from pabtune.runtime.compatibility import check_fits
from pabtune.runtime.targets import Target
from pabtune.tuning.schedules import find_schedules

FITTED_SEEDS = 3
"""Seeds of each calibration prompt that are fitted on."""


class Pabtune:
    """Schedules of whole calls, by their share of computed steps."""

    name = "pabtune"
    knob = Knob(name="budget", low=0.1, high=1.0, says="share of the steps that compute")
    settings = STEP_SHARES
    needs: Literal["nothing", "recordings"] = "recordings"

    def misfit(self, model: Target) -> str | None:
        """None: what cannot be fitted says so when it is tried."""
        return None

    def calibrate(self, recordings: Recordings, settings: Sequence[float]) -> Any:
        """Schedules with their factors, by their number of computed steps."""
        further = [
            [prompt.reseeded(number) for prompt in batch]
            for number in range(1, FITTED_SEEDS)
            for batch in recordings.batches
        ]
        schedules = find_schedules(
            recordings.pipeline,
            [*recordings.batches, *further],
            recordings.settings,
            shares=settings,
            catalog=recordings.catalog,
            runs=[*recordings.trajectories, *recordings.record(further)],
            is_refined=False,
        )
        return {str(len(each.computed)): asdict(each) for each in schedules}

    def at(self, setting: float, calibration: Any, steps: int) -> Policy:
        """The policy of a share.

        Raises:
            PolicyError: no schedule was fitted for so few steps.
        """
        count = round(setting * steps)
        if str(count) not in calibration:
            fitted = ", ".join(calibration) or "none"
            raise PolicyError(f"no schedule with {count} of {steps} steps was fitted (fitted: {fitted})")
        return Schedule.from_document(calibration[str(count)]).policy(f"pabtune:{count}", MadeFor())


class PabtuneFront:
    """Policies that were found before, one for each setting.

    Args:
        policies: in the order of their settings, which count from 1.
    """

    name = "pabtune-front"
    needs: Literal["nothing", "recordings"] = "nothing"

    def __init__(self, policies: Sequence[Policy]) -> None:
        self._policies = policies
        self.knob = Knob(name="policy", low=1, high=len(policies), kind=int, says="number of the file")
        self.settings = tuple(range(1, len(policies) + 1))

    @classmethod
    def load(cls, paths: Sequence[Path]) -> "PabtuneFront":
        """The policies of some files, and of folders of files, in the order of their names.

        Raises:
            PolicyError: a file is no policy, or a folder holds none.
        """
        files = [file for path in paths for file in (_policy_files(path) if path.is_dir() else [path])]
        if not files:
            raise PolicyError(
                f"{', '.join(map(str, paths))}: holds no policy files; make some with pabtune search --front DIR"
            )
        return cls([Policy.load(file) for file in files])

    def misfit(self, model: Target) -> str | None:
        """Whether a policy was made for another model."""
        try:
            for policy in self._policies:
                check_fits(policy, model.under(policy), None)
        except PolicyError as error:
            return str(error)
        return None

    def calibrate(self, recordings: Recordings, settings: Sequence[float]) -> Any:
        """Checksums of the policies: what finding them took is not known here."""
        return [policy.digest for policy in self._policies]

    def at(self, setting: float, calibration: Any, steps: int) -> Policy:
        """The policy of a number."""
        return self._policies[round(setting) - 1]


def _policy_files(folder: Path) -> list[Path]:
    """All JSON files of a folder but what searches leave beside their policies, and what a killed one left half written."""
    return sorted(path for path in folder.glob("[!.]*.json") if not path.name.endswith(".result.json"))
