"""Schedules of whole calls, or of all blocks of a call, that were fitted, and their file beside a study."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pabtune.records.files import write_atomically
from pabtune.records.policies import MadeFor, Policy
from pabtune.records.rules import Rule


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """A schedule that was run on a few prompts.

    Attributes:
        kind: what is broadcast: whole calls, or the blocks of one.
        layers: of the blocks; None = all.
        computed: the steps that compute.
        factors: per step, of the last changes.
        psnr_db: mean against the full runs that it was fitted on.
        worst_psnr_db: of the worst of these videos.
    """

    kind: Literal["transformer", "stack"] = "transformer"
    layers: tuple[int, ...] | None = None
    computed: tuple[int, ...]
    factors: tuple[tuple[float, ...], ...]
    psnr_db: float
    worst_psnr_db: float

    @property
    def closeness(self) -> float:
        """What schedules of as many computed steps are chosen by: larger is better."""
        return self.psnr_db + self.worst_psnr_db

    @property
    def rule(self) -> Rule:
        """The rule of a policy."""
        if self.kind == "stack" and not any(self.factors):
            return Rule(kind="stack", compute=self.computed, layers=self.layers)
        return Rule(kind=self.kind, compute=self.computed, layers=self.layers, payload="scaled", factors=self.factors)

    def policy(self, name: str, made_for: MadeFor) -> Policy:
        """A policy of this schedule alone."""
        return Policy(name=name, rules=(self.rule,), made_for=made_for)

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> "Schedule":
        """The schedule that `asdict` wrote."""
        factors, layers = tuple(tuple(each) for each in document["factors"]), document.get("layers")
        own = {"computed": tuple(document["computed"]), "factors": factors, "layers": layers and tuple(layers)}
        return cls(**{**document, **own})


def load_schedules(path: Path) -> list[Schedule] | None:
    """Schedules that `save_schedules` wrote; None if there is no such file, or it is broken."""
    try:
        return [Schedule.from_document(each) for each in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def save_schedules(path: Path, schedules: Sequence[Schedule]) -> None:
    """Writes schedules, atomically, for workers and runs that come later."""
    text = json.dumps([asdict(each) for each in schedules])
    write_atomically(path, lambda partial: partial.write_text(text, encoding="utf-8"))
