"""The measures of fidelity by name: PSNR and SSIM, which every evaluation takes, and those that are taken on demand."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf

import numpy as np
from numpy.typing import NDArray

from pabtune.quality import fidelity, temporal, vmaf
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
        highest: largest figure that there can be; the smallest is 0.
        per_db: how much of it counts as much as 1 dB of PSNR, where what is missing to several floors is weighed: a 25th of
            the range from videos that have nothing in common to identical ones.
        load: finds what the measure needs, and raises a `MeasureError` where that is not at hand.
        least_side: frames whose shorter side has fewer pixels are enlarged pixel by pixel; 0 = they are not.
    """

    figure: str
    says: str
    is_higher_better: bool
    highest: float
    per_db: float
    load: Callable[[], Compare]
    least_side: int = 0

    def enlarged(self, height: int, width: int) -> int:
        """By which factor frames of a size are enlarged."""
        return enlargement(height, width, self.least_side)


def _load_lpips() -> Compare:
    from pabtune.quality.lpips import load_lpips  # torch is not loaded for names of measures

    return load_lpips()


ALWAYS: Mapping[str, Measure] = {
    "psnr": Measure(
        figure="psnr_db",
        says="peak signal-to-noise ratio, dB",
        is_higher_better=True,
        highest=fidelity.PSNR_OF_IDENTICAL_DB,
        per_db=1.0,
        load=lambda: fidelity.psnr_db,
    ),
    "ssim": Measure(
        figure="ssim",
        says="structural similarity, 1 = alike",
        is_higher_better=True,
        highest=1.0,
        per_db=0.028,
        load=lambda: fidelity.ssim,
    ),
}
"""Measures that every evaluation takes."""

MEASURES: Mapping[str, Measure] = {
    "vmaf": Measure(
        figure="vmaf",
        says="what people see of detail and motion, brightness alone, 0..100",
        is_higher_better=True,
        highest=100.0,
        per_db=4.0,
        load=vmaf.load_vmaf,
        least_side=vmaf.LEAST_SIDE,
    ),
    "temporal": Measure(
        figure="temporal_error",
        says="error of the differences between frames: flicker and wrong motion, in levels of 255",
        is_higher_better=False,
        highest=510.0,
        per_db=0.48,
        load=lambda: temporal.temporal_error,
    ),
    "lpips": Measure(
        figure="lpips",
        says="distance of AlexNet's features, 0 = alike",
        is_higher_better=False,
        highest=inf,
        per_db=0.024,
        load=_load_lpips,
        least_side=64,
    ),
}
"""Measures that are taken on demand."""

EVERY: Mapping[str, Measure] = {**ALWAYS, **MEASURES}


def load_measures(names: Sequence[str]) -> dict[str, Compare]:
    """Measures that are taken on demand, by name, ready to be taken.

    Raises:
        MeasureError: there is no such measure, or it lacks something.
    """
    for name in names:
        if name not in MEASURES:
            raise MeasureError(f"unknown measure {name!r}; known measures: {', '.join(MEASURES)}")
    return {name: MEASURES[name].load() for name in names}
