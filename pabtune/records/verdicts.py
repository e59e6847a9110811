"""Verdicts on a quality budget, and what they rest on."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, Literal

Verdict = Literal["accept", "reject", "undecided"]
"""On a budget: shown to hold, shown not to hold, or neither."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """A verdict and what it rests on.

    Attributes:
        verdict: on the budget.
        prompts: number of prompts that it rests on; several videos of one prompt count as their mean.
        mean: mean drop in points.
        interval: 95 % interval of the mean drop; infinite for one prompt.
        doubt: bound of the probability that the drops look this good though the budget is passed; 1 = no evidence.
        error: largest doubt at which this look accepts.
        needed: prompts after which it is accepted if all goes on as it did; None if the drops seen promise nothing.
        broken: share of the prompts whose videos are broken.
        classes: judgements of each content class; empty if there is only one.
    """

    verdict: Verdict
    prompts: int
    mean: float
    interval: tuple[float, float]
    doubt: float
    error: float
    needed: int | None
    broken: float
    classes: Mapping[str, "Judgement"] = field(default_factory=dict)

    def to_document(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "verdict": self.verdict,
            "prompts": self.prompts,
            "mean_drop": round(self.mean, 4),
            "ci95": [round(bound, 4) for bound in self.interval] if isfinite(self.interval[0]) else None,
            "doubt": float(f"{self.doubt:.3g}"),
            "error": round(self.error, 5),
            "prompts_needed": self.needed,
            "broken_share": round(self.broken, 4),
            **({"classes": {name: each.to_document() for name, each in self.classes.items()}} if self.classes else {}),
        }

    def __str__(self) -> str:
        needed = ""
        if self.verdict == "undecided":
            needed = f"; about {self.needed} are needed" if self.needed else "; more would not help"
            if self.doubt <= self.error:
                needed = "; the one before it was not accepted"
        return f"{self.verdict} on {self.prompts} unseen prompts{needed}"
