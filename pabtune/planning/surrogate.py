"""A model of the error of a video, by which thousands of schedules of whole calls are ranked without generating one.

A run's latents follow x[i+1] = a[i] x[i] + r[i] y[i], where y[i] is the output of the transformer's calls of step i, put
together as the pipeline's guidance does. Where a step broadcasts, y[i] is a combination of earlier outputs, and the error of
the latents follows exactly from their inner products; where a step computes, the network moves the error on by a gain that was
measured: how far an error made at a step moves the final latents. Errors are added up as vectors, so that factors can make a
later one undo an earlier.

Knows inner products, rates and gains as arrays; knows nothing of tensors, pipelines or where they were measured.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pabtune.records.rules import MOST_FACTORS

Factors = tuple[tuple[float, ...], ...]
"""Per step, factors of a `scaled` payload; empty for steps that compute."""

RIDGE = 1e-3
"""Of the least squares that give the factors, relative to the size of the changes."""

TAIL = 0.5
"""Weight of the worst video in the objective; the rest is the mean of all."""

LEAST_GAIN = 0.05
"""Smaller gains are taken for this: errors of rounding are not told from errors that fade."""

LEAST_RATE = 1e-6
"""Where a step adds less of its output than this share of what others add, its answer to an error is not told from it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Surrogate:
    """Measurements of some full runs, from which errors of schedules are computed.

    Attributes:
        products: inner products of the outputs of all pairs of steps, per number of the latents, (prompts, steps, steps).
        keeps: a, how much of the latents a step keeps, (steps,).
        rates: r, how much of its output a step adds, (steps,).
        gains: size of the final error over that of an error made at a step, (prompts, steps).
        takeovers: steps in which another transformer takes over; they compute, and nothing is made from outputs before.
    """

    products: NDArray[np.float64]
    keeps: NDArray[np.float64]
    rates: NDArray[np.float64]
    gains: NDArray[np.float64]
    takeovers: frozenset[int] = frozenset()

    @property
    def steps(self) -> int:
        """Number of denoising steps."""
        return len(self.rates)

    def moves(self, gains: NDArray[np.float64]) -> NDArray[np.float64]:
        """What a computed step multiplies an error by, (…, steps), from gains (…, steps)."""
        moves = np.ones_like(gains)
        moves[..., 1:] = gains[..., :-1] / gains[..., 1:]
        return moves

    def factors(self, computed: Sequence[int], most: int = 2) -> Factors:
        """The factors of a `scaled` payload that make the latents after each step as good as they can be.

        Args:
            computed: the steps that compute, rising from 0.
            most: most factors of a step.
        """
        products = self.products.mean(axis=0)
        moves = self.moves(np.exp(np.log(self.gains).mean(axis=0)))
        computes, error, history = set(computed), np.zeros(self.steps), list[NDArray[np.float64]]()
        factors: list[tuple[float, ...]] = []
        for step in range(self.steps):
            if step in computes:
                history = [*self._history(step, history), self._output(step, error, moves[step])]
                error = moves[step] * error
                factors.append(())
            else:
                target = np.zeros(self.steps)
                target[step] = 1.0
                start = self.keeps[step] * error + self.rates[step] * (history[-1] - target)
                changes = [history[-back] - history[-back - 1] for back in range(1, min(most, len(history) - 1) + 1)]
                columns = self.rates[step] * np.array(changes).reshape(-1, self.steps).T
                found = solve(columns.T @ products @ columns, -columns.T @ products @ start)
                error = start + columns @ np.array(found)
                factors.append(found)
        return tuple(factors)

    def errors(self, computed: Sequence[int], factors: Factors) -> NDArray[np.float64]:
        """Mean squared error of the final latents of each prompt, (prompts,).

        Args:
            computed: the steps that compute, rising from 0.
            factors: of the steps that do not.
        """
        moves, computes = self.moves(self.gains), set(computed)
        error, history = np.zeros((len(self.products), self.steps)), list[NDArray[np.float64]]()
        for step in range(self.steps):
            if step in computes:
                history = [*self._history(step, history), self._output(step, error, moves[:, step, None])]
                error = moves[:, step, None] * error
            else:
                served = history[-1].copy()
                for back, factor in enumerate(factors[step], start=1):
                    served += factor * (history[-back] - history[-back - 1])
                served[:, step] -= 1.0
                error = self.keeps[step] * error + self.rates[step] * served
        return np.asarray(np.einsum("pi,pij,pj->p", error, self.products, error))

    def objective(self, computed: Sequence[int], most: int = 2) -> float:
        """What a schedule is ranked by: logarithm of the error, of the mean video and the worst; smaller is better."""
        return objective_of(self.errors(computed, self.factors(computed, most)))

    def _output(self, step: int, error: NDArray[np.float64], move: NDArray[np.float64]) -> NDArray[np.float64]:
        """Output of a computed step, as coefficients of the full run's outputs: it answers to the error of its latents."""
        rate = self.rates[step]
        adds = abs(rate) > LEAST_RATE * np.abs(self.rates).max()
        output = np.asarray((move - self.keeps[step]) / rate * error if adds else np.zeros_like(error))
        output[..., step] += 1.0
        return output

    def _history(self, step: int, history: list[NDArray[np.float64]]) -> list[NDArray[np.float64]]:
        """Outputs that a later step may be made from, before this one computes."""
        return [] if step in self.takeovers else history


def objective_of(errors: NDArray[np.float64]) -> float:
    """What errors of videos, (prompts,), are ranked by: the mean of their logarithms, and the worst; smaller is better."""
    levels = np.log(np.maximum(errors, 1e-12))
    return float((1 - TAIL) * levels.mean() + TAIL * levels.max())


def gain_curve(measured: Mapping[int, float], steps: int) -> NDArray[np.float64]:
    """Gains of all steps, (steps,), between those that were measured at some, to 1 at the last; without any all are 1."""
    places = sorted(measured)
    levels = [float(np.log(max(measured[place], LEAST_GAIN))) for place in places]
    return np.exp(np.interp(np.arange(steps), [*places, steps - 1], [*levels, 0.0]))


def solve(normal: NDArray[np.float64], right: NDArray[np.float64], ridge: float = RIDGE) -> tuple[float, ...]:
    """Solution of regularized normal equations, (n, n) and (n,)."""
    if not len(normal):
        return ()
    size = np.trace(normal) / len(normal)
    if size <= 0:
        return (0.0,) * len(right)
    return tuple(np.linalg.solve(normal + ridge * size * np.eye(len(normal)), right).tolist())


def consensus(schedules: Sequence[Sequence[int]], takeovers: frozenset[int] = frozenset()) -> tuple[int, ...]:
    """The schedule whose n-th computed step is the mean of the n-th ones of several: what each happened to end at evens out.

    Args:
        schedules: steps that compute, rising, as many in each.
        takeovers: steps that compute in any case, in all of these.
    """
    steps = np.floor(np.mean([list(each) for each in schedules], axis=0) + 0.5).astype(int)
    for takeover in sorted(takeovers - set(steps.tolist())):
        steps[np.abs(steps - takeover).argmin()] = takeover
    return tuple(sorted(set(steps.tolist())))


def best_schedule(  # noqa: PLR0913, PLR0917, all but three have a default
    surrogate: Surrogate,
    count: int,
    first: int,
    last: int = 1,
    seed: int = 0,
    iterations: int = 4000,
    most: int = 2,
    factors: Callable[[Sequence[int]], Factors] | None = None,
) -> tuple[int, ...]:
    """The steps that compute in the best schedule that simulated annealing finds.

    Args:
        surrogate: what schedules are ranked by.
        count: number of steps that compute.
        first: number of steps at the beginning that compute in any case.
        last: the same at the end.
        seed: seed of the annealing.
        iterations: moves that are tried, of one computed step to another place each.
        most: most factors of a step, at most `MOST_FACTORS`.
        factors: of the steps, by those that compute; None = those that suit each schedule best.
    """
    rng, most = np.random.default_rng(seed), min(most, MOST_FACTORS)
    fixed = {*range(first), *range(surrogate.steps - last, surrogate.steps), *surrogate.takeovers}
    free = sorted(set(range(surrogate.steps)) - fixed)
    current = set(rng.choice(free, min(max(count - len(fixed), 0), len(free)), replace=False).tolist())
    known: dict[tuple[int, ...], float] = {}

    def value(chosen: set[int]) -> float:
        key = tuple(sorted(chosen | fixed))
        if key not in known:
            known[key] = (
                surrogate.objective(key, most) if factors is None else objective_of(surrogate.errors(key, factors(key)))
            )
        return known[key]

    value_now = value(current)
    for iteration in range(iterations if current and len(current) < len(free) else 0):
        heat = 0.5 * 0.02 ** (iteration / iterations)
        moved = int(rng.choice(sorted(current)))
        near = [moved + offset for offset in (-2, -1, 1, 2)] if rng.random() < 0.6 else free
        places = [place for place in near if place in free and place not in current]
        if not places:
            continue
        proposed = current - {moved} | {int(rng.choice(places))}
        change = value(proposed) - value_now
        if change < 0 or rng.random() < np.exp(-change / heat):
            current, value_now = proposed, value_now + change
    return min(known, key=known.__getitem__)
