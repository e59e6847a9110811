"""The measures of fidelity that are taken on demand, by name. PSNR and SSIM are always taken (`fidelity.py`)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pabtune.quality import temporal, vmaf
from pabtune.quality.enlarging import enlargement
from pabtune.records.errors import MeasureError

Compare = Callable[[NDArray[np.uint8], NDArray[np.uint8]], float]
"""From a video and its reference, (frames, height, width, 3) each, to a figure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """One measure.

    Attributes:
        figure: what its figure is called in documents, with its unit.
        says: what it tells, in a few words.
        is_higher_better: whether larger figures are closer.
        least_side: frames whose shorter side has fewer pixels are enlarged pixel by pixel; 0 = they are not.
        load: finds what the measure needs, and raises a `MeasureError` where that is not at hand.
    """

    figure: str
    says: str
    is_higher_better: bool
    least_side: int
    load: Callable[[], Compare]

    def enlarged(self, height: int, width: int) -> int:
        """By which factor frames of a size are enlarged."""
        return enlargement(height, width, self.least_side)


def _load_lpips() -> Compare:
    from pabtune.quality.lpips import load_lpips  # torch is not loaded for names of measures

    return load_lpips()


MEASURES: Mapping[str, Measure] = {
    "vmaf": Measure(
        figure="vmaf",
        says="what people see of detail and motion, brightness alone, 0..100",
        is_higher_better=True,
        least_side=vmaf.LEAST_SIDE,
        load=vmaf.load_vmaf,
    ),
    "temporal": Measure(
        figure="temporal_error",
        says="error of the differences between frames: flicker and wrong motion, in levels of 255",
        is_higher_better=False,
        least_side=0,
        load=lambda: temporal.temporal_error,
    ),
    "lpips": Measure(
        figure="lpips",
        says="distance of AlexNet's features, 0 = alike",
        is_higher_better=False,
        least_side=64,
        load=_load_lpips,
    ),
}


def load_measures(names: Sequence[str]) -> dict[str, Compare]:
    """The measures of some names, ready to be taken.

    Raises:
        MeasureError: there is no such measure, or it lacks something.
    """
    for name in names:
        if name not in MEASURES:
            raise MeasureError(f"unknown measure {name!r}; known measures: {', '.join(MEASURES)}")
    return {name: MEASURES[name].load() for name in names}
