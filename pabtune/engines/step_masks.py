"""The mask of steps of one transformer, from the rows of a policy's compute mask."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pabtune.engines.engine import Engine
from pabtune.planning.masks import ComputeMask, layers_of
from pabtune.records.sites import Kind

MASKED: tuple[Kind, ...] = ("stack", "transformer")
"""Kinds whose steps are a mask of an engine, or nearly."""

FIRST_LINE = 3
"""cache-dit's TaylorSeer has no differences before this step of a run (`TaylorSeerState.derivative`, 1.5.3): it holds."""

Serves = Literal["hold", "line", "other"]
"""What a held step serves: the last residual, the line through the last two over steps, or anything else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepMask:
    """What one transformer does in the steps that it is called in.

    Attributes:
        transformer: name of the pipeline's component.
        start: its first step among those of the run.
        computes: for each of its steps.
        serves: for each of its steps; of one that computes, `hold`.
        is_line: whether the engine is to extrapolate along lines.
    """

    transformer: str
    start: int
    computes: tuple[bool, ...]
    serves: tuple[Serves, ...]
    is_line: bool = False

    @property
    def held(self) -> int:
        """Number of steps that do not compute."""
        return self.computes.count(False)

    @property
    def bits(self) -> list[int]:
        """1 = compute, 0 = hold, as engines write it."""
        return [int(each) for each in self.computes]

    @property
    def computed_steps(self) -> tuple[int, ...]:
        """Its own steps that compute, counted from its first one."""
        return tuple(step for step, computes in enumerate(self.computes) if computes)


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldRows:
    """Rows of a compute mask that are sometimes held, of one transformer, with the same steps and payload.

    Attributes:
        computes: (steps,), whether they compute.
        index: of one of them.
        kind: `stack` or `transformer`.
        layers: of the stacks.
    """

    computes: NDArray[np.bool_]
    index: int
    kind: Kind
    layers: frozenset[int] = field(default_factory=frozenset)

    @property
    def weight(self) -> int:
        """How much they hold: blocks times steps."""
        return int((~self.computes).sum()) * max(len(self.layers), 1)


def rows_of(mask: ComputeMask, name: str) -> Iterator[HeldRows]:
    """Rows of a transformer that are sometimes held; stacks of the same steps and payload as one."""
    merged: dict[tuple[object, ...], HeldRows] = {}
    for index, site in enumerate(mask.sites):
        row = mask.compute[index]
        if site.transformer != name or site.kind not in MASKED or row.all():
            continue
        layers = frozenset(layers_of(site)) if site.kind == "stack" else frozenset()
        key = (site.kind, row.tobytes(), mask.payload(index))
        known = merged.get(key)
        merged[key] = HeldRows(
            computes=row, index=index, kind=site.kind, layers=layers | (known.layers if known else frozenset())
        )
    yield from merged.values()


def step_mask(
    mask: ComputeMask, name: str, rows: HeldRows | None, called: NDArray[np.bool_], engine: Engine
) -> StepMask:
    """The mask of one transformer, over the steps that it is called in."""
    steps = np.flatnonzero(called).tolist()
    start = steps[0] if steps else 0
    if rows is None:
        idle: tuple[Serves, ...] = tuple("hold" for _ in steps)
        return StepMask(transformer=name, start=start, computes=(True,) * len(steps), serves=idle)
    computes = tuple(bool(rows.computes[step]) for step in steps)
    serves: list[Serves] = []
    for step in steps:
        history = [earlier for earlier in steps if earlier < step and rows.computes[earlier]]
        serves.append("hold" if rows.computes[step] else _served(mask, rows.index, history, step))
    plain = StepMask(transformer=name, start=start, computes=computes, serves=tuple(serves))
    if not engine.takes_line:
        return plain
    line = replace(plain, is_line=True)
    return line if len(unserved(line)) < len(unserved(plain)) else plain


def _served(mask: ComputeMask, index: int, history: Sequence[int], step: int) -> Serves:
    """What a held step serves."""
    weights = mask.weights(index, history, step)
    if np.allclose(weights[:-1], 0.0, atol=1e-6):
        return "hold"
    if len(history) > 1:
        slope = (step - history[-1]) / (history[-1] - history[-2])
        line = [0.0] * (len(weights) - 2) + [-slope, 1 + slope]
        if np.allclose(weights, line, atol=1e-4):
            return "line"
    return "other"


def unserved(mask: StepMask) -> list[int]:
    """Held steps, of its own, in which the engine serves something else than the policy."""
    steps = []
    last = 0
    for step, (computes, serves) in enumerate(zip(mask.computes, mask.serves, strict=True)):
        if computes:
            last = step
        elif serves != ("line" if mask.is_line and last >= FIRST_LINE else "hold"):
            steps.append(step)
    return steps


def span(numbers: Iterable[int]) -> str:
    """Whole numbers as runs: 1..4, 7."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}..{run[-1]}" for run in runs)


def line_factors(computed: Sequence[int], steps: int, takeovers: Collection[int] = ()) -> tuple[tuple[float, ...], ...]:
    """Factors of a `scaled` payload that serve the line of an engine's TaylorSeer; none where the engine holds.

    Args:
        computed: the steps that compute.
        steps: of the run.
        takeovers: steps in which another transformer takes over: its steps are counted from there.
    """
    factors: list[tuple[float, ...]] = []
    start, history = 0, list[int]()
    for step in range(steps):
        if step in takeovers:
            start, history = step, []
        if step in computed or step in takeovers:
            history.append(step)
            factors.append(())
        elif len(history) > 1 and history[-1] - start >= FIRST_LINE:
            factors.append(((step - history[-1]) / (history[-1] - history[-2]),))
        else:
            factors.append(())
    return tuple(factors)
