"""VBench's total, quality and semantic scores of its 16 dimensions: pure arithmetic.

The constants are those of VBench's leaderboard (https://github.com/Vchitect/VBench, scripts/constant.py and
scripts/cal_final_score.py): a dimension is scaled to its range, which is not clipped; quality and semantic scores are weighted
means of their dimensions, the total is four parts quality and one part semantic. All are in points, 0..100.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from pabtune.records.errors import VbenchError

Group = Literal["quality", "semantic"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How a dimension counts: its group, its weight in it, and the raw values that become 0 and 1."""

    group: Group
    zero: float = 0.0
    one: float = 1.0
    weight: float = 1.0

    def normalize(self, raw: float) -> float:
        """A raw value on the dimension's scale: 0..1, but not clipped."""
        return (raw - self.zero) / (self.one - self.zero)

    @property
    def span(self) -> float:
        """Points between raw values of 0 and 1."""
        return 100 * (self.normalize(1.0) - self.normalize(0.0))


SCALES: Mapping[str, Scale] = {
    "subject_consistency": Scale(group="quality", zero=0.1462),
    "background_consistency": Scale(group="quality", zero=0.2615),
    "temporal_flickering": Scale(group="quality", zero=0.6293),
    "motion_smoothness": Scale(group="quality", zero=0.7060, one=0.9975),
    "dynamic_degree": Scale(group="quality", weight=0.5),
    "aesthetic_quality": Scale(group="quality"),
    "imaging_quality": Scale(group="quality"),
    "object_class": Scale(group="semantic"),
    "multiple_objects": Scale(group="semantic"),
    "human_action": Scale(group="semantic"),
    "color": Scale(group="semantic"),
    "spatial_relationship": Scale(group="semantic"),
    "scene": Scale(group="semantic", one=0.8222),
    "appearance_style": Scale(group="semantic", zero=0.0009, one=0.2855),
    "temporal_style": Scale(group="semantic", one=0.3640),
    "overall_consistency": Scale(group="semantic", one=0.3640),
}
"""Scale of each of the 16 dimensions, in the order of VBench's tables."""

QUALITY_PARTS, SEMANTIC_PARTS = 4.0, 1.0
"""Weights of the two groups in the total."""


def group_score(group: Group, raw: Mapping[str, float]) -> float:
    """Quality or semantic score, in points.

    Args:
        group: which of the two.
        raw: raw value, 0..1, of each dimension of the group; others are ignored.

    Raises:
        VbenchError: a dimension is missing, which VBench's own script silently counts as 0, or not finite.
    """
    scales = {name: scale for name, scale in SCALES.items() if scale.group == group}
    check_complete(scales, raw)
    weighted = sum(scale.weight * scale.normalize(raw[name]) for name, scale in scales.items())
    return 100 * weighted / sum(scale.weight for scale in scales.values())


def total_score(raw: Mapping[str, float]) -> float:
    """Total score of all 16 dimensions, in points.

    Raises:
        VbenchError: as `group_score`.
    """
    weighted = QUALITY_PARTS * group_score("quality", raw) + SEMANTIC_PARTS * group_score("semantic", raw)
    return weighted / (QUALITY_PARTS + SEMANTIC_PARTS)


def total_weights() -> dict[str, float]:
    """Weight of each dimension's points in the total score; all weights add up to 1."""
    parts: dict[Group, float] = {"quality": QUALITY_PARTS, "semantic": SEMANTIC_PARTS}
    sums = {group: sum(scale.weight for scale in SCALES.values() if scale.group == group) for group in parts}
    return {
        name: parts[scale.group] / sum(parts.values()) * scale.weight / sums[scale.group]
        for name, scale in SCALES.items()
    }


def points(dimension: str, raw: float) -> float:
    """A dimension's raw value on its scale, in points."""
    return 100 * SCALES[dimension].normalize(raw)


def can_total(group: Group, names: Iterable[str]) -> bool:
    """Whether all dimensions of a group are among the named ones."""
    return {name for name, scale in SCALES.items() if scale.group == group} <= set(names)


def check_complete(needed: Iterable[str], raw: Mapping[str, float]) -> None:
    """Refuses raw values of which some are missing or not finite.

    Raises:
        VbenchError: which.
    """
    missing = [name for name in needed if name not in raw]
    if missing:
        raise VbenchError(f"the score needs each of its dimensions, but there is no value of {', '.join(missing)}")
    wrong = [f"{name} is {raw[name]}" for name in needed if not math.isfinite(raw[name])]
    if wrong:
        raise VbenchError(f"every dimension must have a finite value, but {', '.join(wrong)}")
