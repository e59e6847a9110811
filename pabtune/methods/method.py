"""What a method of the literature is: one knob, what it measures beforehand, and what runs at a setting of the knob."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from diffusers import DiffusionPipeline

from pabtune.catalog import CATALOG, Catalog
from pabtune.records.errors import MethodError
from pabtune.records.prompts import Prompt
from pabtune.runtime.targets import Target
from pabtune.tuning.evaluate import Acceleration
from pabtune.tuning.generation import Settings
from pabtune.tuning.trajectories import Trajectories, record_trajectories


@dataclass(frozen=True, slots=True, kw_only=True)
class Knob:
    """The one number by which a method trades closeness for speed.

    Attributes:
        name: what the literature calls it.
        low: smallest value.
        high: largest value.
        says: what it is, in a line.
        is_whole: whether it is a whole number.
    """

    name: str
    low: float
    high: float
    says: str
    is_whole: bool = False

    def check(self, method: str, setting: float) -> None:
        """Refuses a setting out of range.

        Raises:
            MethodError: it is out of range, or no whole number where one is needed.
        """
        if not self.low <= setting <= self.high or (self.is_whole and setting != round(setting)):
            kind = "a whole number" if self.is_whole else "a number"
            raise MethodError(
                f"{method}: {self.name} must be {kind} from {self.low:g} to {self.high:g}, but is {setting:g} ({self.says})"
            )


@dataclass(slots=True, kw_only=True)
class Recordings:
    """A model, and prompts that a method may run on it before it is used.

    Attributes:
        pipeline: the model.
        batches: calibration prompts, by batch.
        settings: how videos are generated; they count the videos.
        catalog: what is known of transformer classes.
        bytes: recorded of runs at most, so far.
    """

    pipeline: DiffusionPipeline
    batches: Sequence[Sequence[Prompt]]
    settings: Settings
    catalog: Catalog = CATALOG
    bytes: int = 0
    _trajectories: list[Trajectories] = field(default_factory=list)

    @property
    def target(self) -> Target:
        """The transformers."""
        return Target.of(self.pipeline, self.catalog)

    def trajectories(self) -> Sequence[Trajectories]:
        """Full runs of all batches, recorded once.

        Raises:
            ModelError: the pipeline does not tell its latents, or they do not follow from the outputs of calls.
        """
        if not self._trajectories:
            self._trajectories = [
                record_trajectories(self.pipeline, self.target, batch, self.settings) for batch in self.batches
            ]
            tensors = [tensor for run in self._trajectories for tensor in (*run.latents, *run.outputs)]
            self.note_bytes(sum(tensor.nbytes for tensor in tensors))
        return self._trajectories

    def note_bytes(self, count: int) -> None:
        """Notes how much was recorded of runs."""
        self.bytes = max(self.bytes, count)


class Method(Protocol):
    """A method. Adding one is a file with a class of this form, its line in `registry.py`, and a test.

    Attributes:
        name: on the command line and in tables.
        knob: its one number.
        settings: of the knob that are tried where nobody names any.
    """

    @property
    def name(self) -> str:
        """See `Attributes`."""

    @property
    def knob(self) -> Knob:
        """See `Attributes`."""

    @property
    def settings(self) -> Sequence[float]:
        """See `Attributes`."""

    def misfit(self, target: Target) -> str | None:
        """Why a model cannot carry the method, in a line; None = it can, as far as is known before it runs."""

    def calibrate(self, recordings: Recordings, settings: Sequence[float]) -> Any:
        """What the method measures of the model for these settings, as JSON; None = nothing.

        Raises:
            ModelError: the model cannot be measured so.
        """

    def at(self, setting: float, calibration: Any, steps: int) -> Acceleration:
        """What runs at a setting: a policy, or what decides during the run.

        Args:
            setting: of the knob.
            calibration: what `calibrate` returned.
            steps: denoising steps of the full run.
        """
