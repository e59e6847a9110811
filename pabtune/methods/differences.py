"""The measure of change that all methods share, and full runs in which it is measured beforehand."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pabtune.methods.method import Recordings
from pabtune.records.errors import ModelError
from pabtune.runtime.decided_sites import lay_out
from pabtune.runtime.deciders import COMPUTE, Decision, DynamicPolicy, Moment
from pabtune.runtime.engine import broadcast
from pabtune.runtime.targets import Target
from pabtune.tuning.generation import generate


def relative_change(value: Tensor, before: Tensor) -> float:
    """Mean absolute difference over the mean absolute value before. The host waits for it.

    Args:
        value: now.
        before: of the same shape.
    """
    return float((value - before).abs().mean() / before.abs().mean())


@dataclass(slots=True)
class Seen:
    """What was seen in a computed call of a full run.

    Attributes:
        transformer: name of the transformer.
        branch: name of the branch.
        moment: the call.
        seen: what the policy's point of decision shows.
        watched: what the policy watches.
        before: the same of the step before, in the same run; None in the first.
    """

    transformer: str
    branch: str
    moment: Moment
    seen: Tensor
    watched: Tensor | None
    before: "Seen | None"


class Watcher:
    """Decider that lets everything compute, and notes what it sees.

    Args:
        transformer: name of the transformer.
        branch: name of the branch.
        note: told of each call.
    """

    def __init__(self, transformer: str, branch: str, note: Callable[[Seen], None]) -> None:
        self._transformer, self._branch, self._note = transformer, branch, note
        self._seen: Tensor | None = None
        self._last: Seen | None = None

    def decide(self, moment: Moment, seen: Tensor) -> Decision:
        """Computes (see `Decider`)."""
        self._seen = seen
        return COMPUTE

    def computed(self, moment: Moment, watched: Tensor | None) -> None:
        """Notes the call (see `Decider`)."""
        assert self._seen is not None
        now = Seen(self._transformer, self._branch, moment, self._seen, watched, self._last)
        self._note(now)
        now.before, self._last = None, now


def watch_full_runs(recordings: Recordings, policy: DynamicPolicy) -> None:
    """Runs the calibration prompts in full.

    Args:
        recordings: the model and the prompts.
        policy: computes everything and notes what it sees (see `watching`).
    """
    for batch in recordings.batches:
        with broadcast(recordings.pipeline, policy, catalog=recordings.catalog) as run:
            generate(recordings.pipeline, batch, recordings.settings)
            recordings.bytes = max(recordings.bytes, run.summary()["most_stored_bytes"])


def watching(name: str, note: Callable[[Seen], None], **where: Any) -> DynamicPolicy:
    """A policy that computes everything and notes what it sees.

    Args:
        name: of the method.
        note: told of each call; it must not hold the tensors of the step before.
        where: attributes of the policy that say where it looks.
    """
    return DynamicPolicy(name=name, decider=lambda *names: Watcher(*names, note), **where)


def misfit_of(model: Target, policy: DynamicPolicy) -> str | None:
    """Why a model cannot carry a policy, in one line; None if it can."""
    try:
        lay_out(model, policy)
    except ModelError as error:
        return str(error)
    return None


def carried(values: Mapping[int, float], steps: int, calibrated_at: int, missing: float) -> list[float]:
    """Values of the steps of a run, from those of a run of another number of steps: the nearest one's.

    Args:
        values: by step, as calibrated.
        steps: of the run.
        calibrated_at: steps of the calibration.
        missing: value of steps without one.
    """
    scale = (calibrated_at - 1) / max(steps - 1, 1)
    return [values.get(round(step * scale), missing) for step in range(steps)]
