"""The fidelity floor of a search: the least closeness to the unaccelerated video that a policy must keep.

A preset's PSNR on the same prompts, limits on the figures of any measures, or both. What is missing to limits on different
measures is weighed in dB of PSNR (`Measure.per_db`). Knows figures; knows nothing of videos or trials.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Literal

import numpy as np

from pabtune.planning.presets import PRESETS
from pabtune.quality.measures import EVERY, MEASURES
from pabtune.records.errors import BudgetError

TAIL_SHARE = 0.1
"""Share of the videos that are the worst ones."""

FLOOR_PRESETS = tuple(name for name, preset in PRESETS.items() if preset.rules)
"""Presets that may be floors."""

PSNR = "psnr"
"""The measure of presets."""

LIMIT = re.compile(r"\s*(worst-)?([a-z]+)\s*([<>]=)\s*(-?[0-9]{1,9}(?:\.[0-9]{1,9})?)\s*", re.ASCII)

Relation = Literal[">=", "<="]

Figures = Mapping[str, Sequence[float]]
"""Figures of each video by the name of the measure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """A limit on the figures of a measure.

    Attributes:
        measure: its name.
        relation: `>=` where larger figures are closer, else `<=`.
        value: the limit.
        is_worst: whether it is on the worst video; else on the mean.

    Raises:
        BudgetError: an unknown measure, the wrong relation, or a number that no figure can reach.
    """

    measure: str
    relation: Relation
    value: float
    is_worst: bool = False

    def __post_init__(self) -> None:
        if self.measure not in EVERY:
            raise BudgetError(f"unknown measure {self.measure!r} of a floor; known measures: {', '.join(EVERY)}")
        measure = EVERY[self.measure]
        wanted, better = (">=", "larger") if measure.is_higher_better else ("<=", "smaller")
        if self.relation != wanted:
            raise BudgetError(
                f"{better} figures of {self.measure} are closer, so that its floor reads {self.name}{wanted}{self.value:g}"
            )
        if not 0 <= self.value <= measure.highest:
            raise BudgetError(
                f"a floor on {self.measure} lies between 0 and {measure.highest:g} ({measure.says}), not at {self.value:g}"
            )

    @property
    def name(self) -> str:
        """What it is on."""
        return f"worst-{self.measure}" if self.is_worst else self.measure

    def missing(self, figures: Sequence[float]) -> list[float]:
        """What is missing to it, in dB of PSNR or what counts as much, video by video; 0 or less = it is reached."""
        measure = EVERY[self.measure]
        sign = 1 if measure.is_higher_better else -1
        return [sign * (self.value - figure) / measure.per_db for figure in figures]

    def __str__(self) -> str:
        return f"{self.name}{self.relation}{self.value:g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Floor:
    """The least closeness to the unaccelerated videos.

    Attributes:
        preset: preset whose PSNR must be reached, in the mean and in the worst tenth of the videos; None = none.
        limits: on figures, at most one on the mean and one on the worst video of each measure.

    Raises:
        BudgetError: an unknown preset, or two limits on the same.
    """

    preset: str | None = None
    limits: tuple[Limit, ...] = ()

    def __post_init__(self) -> None:
        if self.preset not in (None, *FLOOR_PRESETS):
            raise BudgetError(f"{self.preset!r} is no preset for a floor; there are {', '.join(FLOOR_PRESETS)}")
        for limit in self.limits:
            _refuse_second([each for each in self.limits if each.name == limit.name])

    @classmethod
    def parse(cls, *texts: str) -> "Floor":
        """Reads floors such as `pab246`, `psnr>=38`, `worst-ssim>=0.9` and `lpips<=0.1`, each kind at most once.

        Raises:
            BudgetError: a text is none of these, or two are of one kind.
        """
        presets = [text for text in texts if text in FLOOR_PRESETS]
        _refuse_second(presets)
        limits = tuple(_read_limit(text) for text in texts if text not in FLOOR_PRESETS)
        return cls(preset=presets[0] if presets else None, limits=limits)

    @property
    def measures(self) -> tuple[str, ...]:
        """Names of the measures whose figures it looks at."""
        needed = ([PSNR] if self.preset is not None else []) + [limit.measure for limit in self.limits]
        return tuple(dict.fromkeys(needed))

    @property
    def on_demand(self) -> tuple[str, ...]:
        """Those of its measures that are not always taken."""
        return tuple(name for name in self.measures if name in MEASURES)

    def missing_db(self, figures: Figures, of_preset: Sequence[float] = ()) -> float:
        """What is missing to the floor, in dB of PSNR or what counts as much; 0 or less = it is reached.

        Args:
            figures: of the videos, by each of its measures.
            of_preset: PSNR of the preset's videos in dB, of the same prompts; needed for a preset only.
        """
        missing = [] if self.preset is None else [missing_db(figures[PSNR], of_preset)]
        for limit in self.limits:
            each = limit.missing(figures[limit.measure])
            missing.append(max(each) if limit.is_worst else float(np.mean(each)))
        return max(missing, default=-inf)

    def margins(self, figures: Figures, of_preset: Sequence[float] = ()) -> list[list[float]]:
        """What is missing to each floor on a mean, video by video; arguments as in `missing_db`."""
        margins = []
        if self.preset is not None:
            margins.append([floor - psnr for psnr, floor in zip(figures[PSNR], of_preset, strict=True)])
        return margins + [limit.missing(figures[limit.measure]) for limit in self.limits if not limit.is_worst]

    def is_lost(self, figures: Figures) -> bool:
        """Whether more videos cannot lift these to the floor any more: one is worse than the worst may be."""
        return any(max(limit.missing(figures[limit.measure])) > 0 for limit in self.limits if limit.is_worst)

    def __str__(self) -> str:
        return ", ".join([*([] if self.preset is None else [self.preset]), *map(str, self.limits)])


def _read_limit(text: str) -> Limit:
    match = LIMIT.fullmatch(text)
    if match is None:
        raise BudgetError(
            f"a floor is a preset ({', '.join(FLOOR_PRESETS)}), or a limit on a measure ({', '.join(EVERY)}) such as "
            f"psnr>=38, worst-ssim>=0.9 or lpips<=0.1, but got {text!r}"
        )
    return Limit(
        measure=match[2], relation=match[3], value=float(match[4]), is_worst=match[1] is not None  # type: ignore[arg-type]
    )  # fmt: skip


def _refuse_second(floors: Sequence[object]) -> None:
    """Refuses more than one of floors of one kind."""
    if len(floors) > 1:
        raise BudgetError(f"two floors of one kind: {str(floors[0])!r} and {str(floors[1])!r}; leave one out")


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
