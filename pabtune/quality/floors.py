"""The fidelity floor of a search: the least closeness to the unaccelerated video that a policy must keep.

A preset's closeness on the same prompts, plain numbers of PSNR, or both. Knows PSNRs; knows nothing of videos or trials.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

import numpy as np

from pabtune.planning.presets import PRESETS
from pabtune.records.errors import BudgetError

TAIL_SHARE = 0.1
"""Share of the videos that are the worst ones."""

FLOOR_PRESETS = tuple(name for name, preset in PRESETS.items() if preset.rules)
"""Presets that may be floors."""

HIGHEST_DB = 100.0
"""PSNR of identical videos."""

NUMBER = re.compile(r"\s*(worst-)?psnr\s*>=\s*([0-9]{1,3}(?:\.[0-9]{1,9})?)\s*", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Floor:
    """The least closeness to the unaccelerated videos.

    Attributes:
        preset: preset whose PSNR must be reached, in the mean and in the worst tenth of the videos; None = none.
        psnr_db: least mean PSNR; None = any.
        worst_psnr_db: least PSNR of the worst video; None = any.

    Raises:
        BudgetError: an unknown preset, or a number that no PSNR reaches.
    """

    preset: str | None = None
    psnr_db: float | None = None
    worst_psnr_db: float | None = None

    def __post_init__(self) -> None:
        if self.preset not in (None, *FLOOR_PRESETS):
            raise BudgetError(f"{self.preset!r} is no preset for a floor; there are {', '.join(FLOOR_PRESETS)}")
        for value in (self.psnr_db, self.worst_psnr_db):
            if value is not None and not 0 <= value <= HIGHEST_DB:
                raise BudgetError(
                    f"a floor lies between 0 and the {HIGHEST_DB:g} dB of identical videos, not at {value:g}"
                )

    @classmethod
    def parse(cls, *texts: str) -> "Floor":
        """Reads floors such as `pab246`, `psnr>=38` and `worst-psnr>=32`, each kind at most once.

        Raises:
            BudgetError: a text is none of these, or two are of one kind.
        """
        values: dict[str, Any] = {}
        for text in texts:
            match = NUMBER.fullmatch(text)
            if match is None and text not in FLOOR_PRESETS:
                raise BudgetError(
                    f"a floor is psnr>=DB, worst-psnr>=DB, or a preset ({', '.join(FLOOR_PRESETS)}), but got {text!r}"
                )
            name = "preset" if match is None else "worst_psnr_db" if match[1] else "psnr_db"
            if name in values:
                raise BudgetError(f"two floors of one kind: {values[name]!r} and {text!r}; leave one out")
            values[name] = text if match is None else float(match[2])
        return cls(**values)

    def missing_db(self, psnrs: Sequence[float], of_preset: Sequence[float] = ()) -> float:
        """PSNR missing to the floor, in dB; 0 or less = it is reached.

        Args:
            psnrs: PSNR of each video, in dB.
            of_preset: the same of the preset's videos, of the same prompts; needed for a preset only.
        """
        missing = [] if self.preset is None else [missing_db(psnrs, of_preset)]
        if self.psnr_db is not None:
            missing.append(self.psnr_db - float(np.mean(psnrs)))
        if self.worst_psnr_db is not None:
            missing.append(self.worst_psnr_db - float(np.min(psnrs)))
        return max(missing, default=-inf)

    def margins(self, psnrs: Sequence[float], of_preset: Sequence[float] = ()) -> list[list[float]]:
        """PSNR missing to each floor on a mean, video by video, in dB; arguments as in `missing_db`."""
        margins = []
        if self.preset is not None:
            margins.append([floor - psnr for psnr, floor in zip(psnrs, of_preset, strict=True)])
        if self.psnr_db is not None:
            margins.append([self.psnr_db - psnr for psnr in psnrs])
        return margins

    def is_lost(self, psnrs: Sequence[float]) -> bool:
        """Whether more videos cannot lift these to the floor any more: one is worse than the worst may be."""
        return self.worst_psnr_db is not None and min(psnrs) < self.worst_psnr_db

    def __str__(self) -> str:
        numbers = (("psnr", self.psnr_db), ("worst-psnr", self.worst_psnr_db))
        parts = [f"{name}>={value:g}" for name, value in numbers if value is not None]
        return ", ".join([*([] if self.preset is None else [self.preset]), *parts])


def missing_db(psnrs: Sequence[float], floor: Sequence[float]) -> float:
    """By how much videos are further from the references than those of a floor: in the mean, or in the worst tenth.

    Args:
        psnrs: PSNR of each video, in dB.
        floor: the same of the floor's videos, of the same prompts.

    Returns:
        The larger of the two differences in dB; 0 or less = not further in either.
    """
    ours, theirs = np.sort(psnrs), np.sort(floor)
    worst = max(1, round(TAIL_SHARE * len(ours)))
    return float(max(theirs.mean() - ours.mean(), theirs[:worst].mean() - ours[:worst].mean()))
