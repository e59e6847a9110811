"""Schedules of whole calls, or of all blocks of a call, that were fitted, and their file beside a study."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

from pabtune.records.files import write_atomically
from pabtune.records.policies import MadeFor, Policy
from pabtune.records.rules import Rule

CHOSEN_BY = "psnr_db + tail_psnr_db"
"""What schedules are chosen by, which kept ones must have been too: other versions chose by other figures."""

TAIL_SHARE = 0.25
"""Share of the videos that are the worst ones."""


def mean_of_smallest(values: Sequence[float]) -> float:
    """Mean of the smallest quarter of some values, at least of one."""
    smallest = sorted(values)[: max(1, round(TAIL_SHARE * len(values)))]
    return float(sum(smallest)) / len(smallest)


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """A schedule that was run on a few prompts.

    Attributes:
        kind: what is broadcast: whole calls, or the blocks of one.
        layers: of the blocks; None = all.
        computed: the steps that compute.
        factors: per step, of the last changes.
        psnr_db: mean against the full runs that it was fitted on.
        tail_psnr_db: mean of the worst quarter of these videos.
    """

    kind: Literal["transformer", "stack"] = "transformer"
    layers: tuple[int, ...] | None = None
    computed: tuple[int, ...]
    factors: tuple[tuple[float, ...], ...]
    psnr_db: float
    tail_psnr_db: float

    @property
    def closeness(self) -> float:
        """What schedules of as many computed steps are chosen by: larger is better.

        The worst video alone says little of other prompts' (docs/log.md).
        """
        return self.psnr_db + self.tail_psnr_db

    def measured(self, psnrs: Sequence[float]) -> Self:
        """The schedule with the figures of a run, from the PSNR of each video in dB."""
        return replace(self, psnr_db=sum(psnrs) / len(psnrs), tail_psnr_db=mean_of_smallest(psnrs))

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
        numbers = [
            document["psnr_db"],
            document["tail_psnr_db"],
            *(each for row in document["factors"] for each in row),
        ]
        if not all(isinstance(each, int | float) for each in (*numbers, *document["computed"])):
            raise TypeError("a schedule holds numbers")
        factors, layers = tuple(tuple(each) for each in document["factors"]), document.get("layers")
        own = {"computed": tuple(document["computed"]), "factors": factors, "layers": layers and tuple(layers)}
        return cls(**{**document, **own})


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """The schedule that was fitted for a number of computed steps.

    Attributes:
        schedule: the closest one that was found.
        shortfall_db: what it lacks of what is asked for, where videos are limited; infinite if it has lost more than
            closeness; 0 or less = nothing.
    """

    schedule: Schedule
    shortfall_db: float = 0.0


class FittedSoFar:
    """What was fitted for some numbers of computed steps, kept in a file so that a killed run goes on where it was.

    Args:
        path: of the file; one that is broken counts as none. None = nothing is kept.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path, self._found = path, dict[int, Fitted]()
        try:
            documents = [] if path is None else json.loads(path.read_text(encoding="utf-8"))
            fits = [Fitted(**{**each, "schedule": Schedule.from_document(each["schedule"])}) for each in documents]
            self._found = {len(each.schedule.computed): each for each in fits}
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            pass

    def get(self, count: int) -> Fitted | None:
        """What was fitted for a number of computed steps; None if nothing was."""
        return self._found.get(count)

    def add(self, fitted: Fitted) -> None:
        """Keeps what was fitted."""
        self._found[len(fitted.schedule.computed)] = fitted
        if self._path is not None:
            text = json.dumps([asdict(each) for each in self._found.values()])
            write_atomically(self._path, lambda partial: partial.write_text(text, encoding="utf-8"))

    def forget(self) -> None:
        """Removes the file, once all of it is kept elsewhere."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)


def load_schedules(path: Path) -> list[Schedule] | None:
    """Schedules that `save_schedules` wrote; None if there is no such file, or it is broken."""
    try:
        return [Schedule.from_document(each) for each in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def save_schedules(path: Path, schedules: Sequence[Schedule]) -> None:
    """Writes schedules, atomically, for workers and runs that come later."""
    text = json.dumps([asdict(each) for each in schedules])
    write_atomically(path, lambda partial: partial.write_text(text, encoding="utf-8"))
