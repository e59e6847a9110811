"""Scaling of a run: candidate layouts for each number of GPUs, and a row for the best one."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pabtune.planning.costs.communication import Communication
from pabtune.planning.layouts import can_share, layouts
from pabtune.records.errors import PolicyError
from pabtune.records.layouts import SEQUENCE_PARALLELS, Axis, ParallelLayout, SequenceParallel

GIGA = 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Predicted time of a run.

    Attributes:
        seconds: time of the run.
        efficiency: fraction of linear scaling, 1 on one GPU.
    """

    seconds: float
    efficiency: float

    def to_document(self) -> dict[str, float]:
        """The latency as JSON."""
        return {"seconds": self.seconds, "efficiency": self.efficiency}


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingRow:
    """A run on a number of GPUs.

    Attributes:
        layout: layout of the GPUs.
        attention: communication of each GPU for attention.
        latency: predicted time; None if no rates are known.
    """

    layout: ParallelLayout
    attention: Communication
    latency: Latency | None

    def to_document(self) -> dict[str, Any]:
        """The row as JSON."""
        return {
            "gpus": self.layout.gpus,
            "layout": self.layout.to_document(),
            "description": str(self.layout),
            "communication": communication_document(self.attention),
            **({} if self.latency is None else {"latency": self.latency.to_document()}),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """Runs on several numbers of GPUs.

    Attributes:
        rows: one for each number that the video is long enough for.
        too_many_gpus: the other numbers.
    """

    rows: tuple[ScalingRow, ...]
    too_many_gpus: tuple[int, ...] = ()

    @property
    def best(self) -> ScalingRow | None:
        """The fastest row; None if no time is predicted."""
        timed = [row for row in self.rows if row.latency is not None]
        return min(timed, key=lambda row: row.latency.seconds if row.latency else 0.0, default=None)

    def to_document(self) -> dict[str, Any]:
        """Rows and the best one as JSON."""
        return {
            "scaling": [row.to_document() for row in self.rows],
            "best": None if self.best is None else self.best.to_document(),
            "too_many_gpus": list(self.too_many_gpus),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class LayoutChoices:
    """Candidate layouts.

    Attributes:
        options: all layouts for each number of GPUs that the video is long enough for.
        too_many_gpus: the other numbers.
    """

    options: tuple[tuple[ParallelLayout, ...], ...]
    too_many_gpus: tuple[int, ...]


def layout_choices(
    gpus: Sequence[int], method: SequenceParallel | None, axes: Sequence[Axis], branches: int, frames: int
) -> LayoutChoices:
    """Candidate layouts for each number of GPUs.

    Args:
        gpus: numbers of GPUs.
        method: method of sequence parallelism, without split branches; None = any method, with and without split branches.
        axes: axes of the model that can be split.
        branches: number of guidance branches of the model.
        frames: number of latent frames; 0 = unknown.

    Raises:
        PolicyError: the video is too short for all of the numbers.
    """
    methods, branches = (SEQUENCE_PARALLELS, branches) if method is None else ((method,), 1)
    options = {
        count: tuple(each for each in layouts(count, axes, methods, branches) if can_share(each, axes, frames))
        for count in gpus
    }
    too_many = tuple(count for count in options if not options[count])
    if not any(options.values()):
        raise PolicyError(
            f"{frames} frames over {', '.join(map(str, too_many))} GPUs leave one to each, but this model needs two"
        )
    return LayoutChoices(options=tuple(each for each in options.values() if each), too_many_gpus=too_many)


def communication_document(sent: Communication) -> dict[str, float]:
    """Communication of one GPU as JSON, in 10^9 bytes."""
    return {
        "paper_gb_per_gpu": sent.paper_bytes / GIGA, "wire_gb_per_gpu": sent.wire_bytes / GIGA, "messages": sent.messages,
    }  # fmt: skip
