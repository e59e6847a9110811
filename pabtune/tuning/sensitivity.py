"""What a profile notes of whole calls while it measures sites: from it schedules are ranked without generating a video.

Every run that a profile makes anyway tells what its calls put out. How far an error made at a step moves the final latents
takes a run with one broken step; one prompt of eight makes it, so that a profile stays within half more than its videos.
"""

from collections.abc import Sequence
from time import perf_counter
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline
from numpy.typing import NDArray

from pabtune.catalog import Catalog
from pabtune.records.errors import FitError
from pabtune.records.prompts import Prompt
from pabtune.runtime.locator import CallPosition
from pabtune.runtime.recorder import Recorder
from pabtune.tuning.generation import Generation, Settings
from pabtune.tuning.schedules import FEWEST_STEPS, PROBED_ONCE, measure_gains
from pabtune.tuning.trajectories import (
    CALLBACK,
    CallRecorder,
    LatentsWatch,
    products_of,
    tells_latents,
    trajectories_of,
)

PROMPTS_PER_PROBE = 8
"""Of so many prompts one runs once more, with one broken step."""


class CallsRecorder(Recorder):
    """Recorder of sites that notes what whole calls put out, too.

    Attributes:
        calls: of the run; None = they are not noted.
    """

    calls: CallRecorder | None = None

    def end(self, position: CallPosition, output: Any) -> None:
        """Adds the call (see `Recorder`), and notes its output."""
        super().end(position, output)
        if self.calls is not None:
            self.calls.end(position, output)


class SensitivityTally:
    """Adds up what full runs tell of whole calls, batch by batch.

    Args:
        pipeline: the model.
        settings: how videos are generated.
        catalog: what is known of transformer classes.

    Attributes:
        refusal: why nothing is measured; None = it is.
        seconds: spent on it so far, besides the runs that a profile makes anyway.
    """

    def __init__(self, pipeline: DiffusionPipeline, settings: Settings, catalog: Catalog) -> None:
        self._pipeline, self._settings, self._catalog = pipeline, settings, catalog
        self._watch = LatentsWatch()
        self._products: list[NDArray[np.float64]] = []
        self._keeps: list[tuple[float, ...]] = []
        self._rates: list[tuple[float, ...]] = []
        self._gains: list[NDArray[np.float64]] = []
        self.refusal = _refusal(pipeline, settings)
        self.seconds = 0.0

    def observe(self, recorder: CallsRecorder) -> Settings:
        """Prepares the recorder for the next batch; returns the settings for its run."""
        if self.refusal is not None:
            recorder.calls = None
            return self._settings
        recorder.calls, self._watch = CallRecorder(), LatentsWatch()
        return self._watch.settings(self._settings)

    def add(self, batch: Sequence[Prompt], recorder: CallsRecorder, generation: Generation) -> None:
        """Adds the run of one batch, and probes the prompts whose turn it is."""
        if self.refusal is not None or recorder.calls is None:
            return
        began, name = perf_counter(), type(self._pipeline).__name__
        try:
            run = trajectories_of(
                name, recorder.calls, self._watch.after, batch, self._settings.steps, generation
            )  # fmt: skip
            for index in range(len(batch)):
                gains = np.full(self._settings.steps, np.nan)
                if self._is_probed(len(self._gains), len(batch)):
                    one = run.of_prompt(index)
                    measured = measure_gains(self._pipeline, one, self._settings, self._catalog, PROBED_ONCE)
                    for step, (gain,) in measured.items():
                        gains[step] = gain
                self._gains.append(gains)
        except FitError as error:
            self.refusal = str(error)
            return
        self._products.append(products_of(run))
        self._keeps.append(run.keeps)
        self._rates.append(run.rates)
        self.seconds += perf_counter() - began

    def arrays(self) -> dict[str, NDArray[np.float64]]:
        """The arrays of a profile; none where nothing is measured."""
        if self.refusal is not None:
            return {}
        return {
            "products": np.concatenate(self._products),
            "keeps": np.mean(self._keeps, axis=0),
            "rates": np.mean(self._rates, axis=0),
            "gains": np.array(self._gains),
        }

    def _is_probed(self, index: int, together: int) -> bool:
        """Whether a prompt runs once more: alone, which in low precision gives other bits than in a batch."""
        is_alike = together == 1 or self._pipeline.dtype in (torch.float32, torch.float64)
        return is_alike and index % PROMPTS_PER_PROBE == PROMPTS_PER_PROBE - 1


def _refusal(pipeline: DiffusionPipeline, settings: Settings) -> str | None:
    """Why whole calls of a pipeline are not measured; None if they are."""
    name = type(pipeline).__name__
    if settings.steps < FEWEST_STEPS:
        return f"with fewer than {FEWEST_STEPS} denoising steps nothing is left to skip"
    if not tells_latents(pipeline):
        return f"{name} has no {CALLBACK}"
    if CALLBACK in settings.arguments:
        return f"its {CALLBACK} was taken by an argument"
    return None
