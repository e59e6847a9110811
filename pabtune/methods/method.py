"""What a method of the literature is: one knob, what it measures of a model beforehand, and a policy for each setting.

A static method's policy says before a run which steps compute; a dynamic one's decides in each call (`runtime/deciders.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Protocol

from diffusers import DiffusionPipeline

from pabtune.catalog import CATALOG, Catalog
from pabtune.records.policies import Policy
from pabtune.records.prompts import Prompt
from pabtune.runtime.deciders import DynamicPolicy
from pabtune.runtime.targets import Target
from pabtune.tuning.generation import Settings
from pabtune.tuning.trajectories import Trajectories, record_trajectories

STEP_SHARES = (0.63, 0.5, 0.4, 0.33, 0.25, 0.23)
"""Settings of methods whose knob is the share of the steps that compute. The last is for a quarter of the measured time, which
a quarter of the steps exceeds by what is outside of the transformer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Knob:
    """The one number that users of a method turn.

    Attributes:
        name: as the method's own code names it.
        low: least sensible value.
        high: greatest sensible value.
        says: what it is, in a few words.
        kind: whether it takes fractions.
        only: the values that there are; empty = all from the least to the greatest.
    """

    name: str
    low: float
    high: float
    says: str
    kind: type[int] | type[float] = float
    only: tuple[float, ...] = ()


@dataclass
class Recordings:
    """Full runs of the calibration prompts, which are made when a method first asks for them.

    Attributes:
        pipeline: the model.
        batches: calibration prompts, a batch for each call of the pipeline.
        settings: how videos are generated; its meter counts them.
        catalog: what is known of transformer classes.
        bytes: most bytes that what was recorded took; methods that record for themselves add theirs.
    """

    pipeline: DiffusionPipeline
    batches: Sequence[Sequence[Prompt]]
    settings: Settings
    catalog: Catalog = CATALOG
    bytes: int = field(default=0)

    @cached_property
    def target(self) -> Target:
        """The transformers of the model."""
        return Target.of(self.pipeline, self.catalog)

    @cached_property
    def trajectories(self) -> list[Trajectories]:
        """Latents and outputs of full runs, one record for each batch."""
        return self.record(self.batches)

    def record(self, batches: Sequence[Sequence[Prompt]]) -> list[Trajectories]:
        """Latents and outputs of full runs of some batches, one record for each; their bytes are counted."""
        runs = [record_trajectories(self.pipeline, self.target, batch, self.settings) for batch in batches]
        self.bytes += sum(tensor.nbytes for run in runs for tensor in (*run.latents, *run.outputs))
        return runs


class Method(Protocol):
    """A method of the literature.

    Attributes:
        name: the literature's, in lower case.
        knob: what its users turn.
        settings: of the knob, which a comparison tries by default.
        needs: whether it measures the model beforehand.
    """

    name: str
    knob: Knob
    settings: tuple[float, ...]
    needs: Literal["nothing", "recordings"]

    def misfit(self, model: Target) -> str | None:
        """Why this model cannot carry the method, in one line; None if it can."""

    def calibrate(self, recordings: Recordings, settings: Sequence[float]) -> Any:
        """What the method measures of the model, as JSON; None if it needs nothing.

        Args:
            recordings: the model and the calibration prompts.
            settings: of the knob, which will be asked for.
        """

    def at(self, setting: float, calibration: Any, steps: int) -> Policy | DynamicPolicy:
        """What runs at a setting.

        Args:
            setting: of the knob.
            calibration: what `calibrate` returned.
            steps: denoising steps of the run.
        """
