"""Payloads: what a broadcast serves, as weights of the outputs that were computed last.

Knows steps, noise levels and factors; knows nothing of sites or tensors.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from pabtune.planning.schedules import NoiseSchedule, same_schedule
from pabtune.records.errors import PolicyError
from pabtune.records.policies import MadeFor
from pabtune.records.rules import PayloadKind, Rule

DEGREES: dict[PayloadKind, int] = {"hold": 0, "linear": 1, "quadratic": 2}
"""Degrees of the polynomials that payloads extrapolate."""


@dataclass(frozen=True, slots=True)
class Payload:
    """What a broadcast of a site serves, in one denoising loop.

    Attributes:
        kind: as in a rule.
        damping: as in a rule.
        factors: as in a rule, for the steps of this loop.
        slopes: factors that were carried here from another schedule: noise levels, rising, and for each the factors over those
            of an extrapolation along the line through two outputs.
    """

    kind: PayloadKind = "hold"
    damping: float = 1.0
    factors: tuple[tuple[float, ...], ...] = ()
    slopes: tuple[tuple[float, tuple[float, ...]], ...] = ()

    @classmethod
    def of(
        cls, source: str, rule: Rule, made_for: MadeFor, schedule: NoiseSchedule, computed: Sequence[int] = ()
    ) -> "Payload":
        """The payload of a rule in a loop with this schedule.

        Args:
            source: names the rule in messages.
            rule: the rule.
            made_for: the schedule that its factors are for.
            schedule: the schedule of the loop.
            computed: steps in which a rule with factors, but without a list of steps, computes on the schedule that these are
                for.

        Raises:
            PolicyError: its factors are for other steps, and cannot be carried over.
        """
        if not rule.factors or same_schedule(made_for, schedule):
            if rule.factors and len(rule.factors) != schedule.steps:
                raise PolicyError(
                    f"{source}: `factors` are of {len(rule.factors)} steps, but the run has {schedule.steps}"
                )
            return cls(rule.payload, rule.damping, rule.factors)
        if made_for.sigmas is None or schedule.sigmas is None or len(rule.factors) != len(made_for.sigmas):
            raise PolicyError(
                f"{source}: its factors are for {made_for.known_steps} steps, the run has {schedule.steps}, and without the "
                f"noise levels of both they cannot be carried over; search again with --steps {schedule.steps}"
            )
        own, listed = cls(rule.payload, rule.damping, rule.factors), (0, *(rule.compute or computed))
        check_history(source, own, [step in listed for step in range(len(rule.factors))])
        return cls(rule.payload, slopes=_slopes(rule.factors, made_for.sigmas, listed))

    @property
    def order(self) -> int:
        """Most outputs that a broadcast is made from."""
        if self.kind == "scaled":
            return 1 + max((len(each) for each in (*self.factors, *(slope for _, slope in self.slopes))), default=0)
        return 1 + DEGREES[self.kind]

    def needs(self, step: int) -> int:
        """Outputs that a broadcast at this step is made from."""
        return 1 + len(self.factors[step]) if self.factors else self.order

    def weights(self, history: Sequence[int], step: int, schedule: NoiseSchedule) -> tuple[float, ...]:
        """Weights of the last outputs, the oldest first; they sum to 1.

        Fewer outputs than the payload needs, after a change of transformer for example, give one of lower order.

        Args:
            history: steps in which the kept outputs were computed, rising.
            step: the step that is served.
            schedule: noise levels of the loop; without these an extrapolation goes over the index of the step.
        """
        count = min(self.needs(step), len(history))
        places = [float(place) if schedule.sigmas is None else schedule.sigmas[place] for place in (*history, step)]
        if self.kind == "scaled":
            weights = np.zeros(count)
            weights[-1] = 1.0
            factors = self.factors[step] if self.factors else self._carried_factors(places)
            for back, factor in enumerate(factors[: count - 1], start=1):
                weights[-back] += factor
                weights[-back - 1] -= factor
            return tuple(weights.tolist())
        weights = lagrange_weights(places[-count - 1 : -1], places[-1]) * self.damping
        weights[-1] += 1.0 - self.damping
        return tuple(weights.tolist())

    def _carried_factors(self, places: Sequence[float]) -> list[float]:
        """Factors at the last of `places`, noise levels of the kept outputs and of the step that is served."""
        levels = [level for level, _ in self.slopes]
        *before, level = places
        factors = []
        for back in range(min(self.order, len(before)) - 1):
            slope = np.interp(level, levels, [slopes[back] if back < len(slopes) else 0.0 for _, slopes in self.slopes])
            apart = before[-1 - back] - before[-2 - back]
            factors.append(float(slope) * (level - before[-1]) / apart if apart else 0.0)
        return factors


def _slopes(
    factors: Sequence[Sequence[float]], sigmas: Sequence[float], listed: Sequence[int]
) -> tuple[tuple[float, tuple[float, ...]], ...]:
    """Factors of each broadcast step over those of an extrapolation along a line, by rising noise level.

    Args:
        factors: per step; a broadcast step without any is held.
        sigmas: noise level of each step.
        listed: the steps that compute.
    """
    slopes, computed = [], list[int]()
    for step, each in enumerate(factors):
        if step in listed:
            computed.append(step)
        else:
            ahead = sigmas[step] - sigmas[computed[-1]]
            behind = [sigmas[computed[-1 - back]] - sigmas[computed[-2 - back]] for back in range(len(each))]
            slopes.append(
                (
                    sigmas[step],
                    tuple(f * apart / ahead if ahead else 0.0 for f, apart in zip(each, behind, strict=True)),
                )
            )
    return tuple(sorted(slopes))


def lagrange_weights(places: Sequence[float], at: float) -> np.ndarray:
    """Weights of values at `places` in the polynomial through them, evaluated `at` another place; they sum to 1.

    Of values at the same place, as schedulers with repeated timesteps have, only the last counts.
    """
    weights = np.zeros(len(places))
    distinct = [index for index, place in enumerate(places) if place not in places[index + 1 :]]
    for index in distinct:
        others = [places[other] for other in distinct if other != index]
        weights[index] = np.prod([(at - other) / (places[index] - other) for other in others])
    return weights


def check_history(source: str, payload: Payload, computed: Sequence[bool]) -> None:
    """Refuses a payload that is made from more outputs than were computed before its first broadcast.

    Raises:
        PolicyError: says how many steps must compute first.
    """
    before = 0
    for step, computes in enumerate(computed):
        if computes:
            before += 1
        elif payload.needs(step) > before:
            raise PolicyError(
                f"{source}: a {payload.kind} payload at step {step} is made from {payload.needs(step)} computed outputs, "
                f"but only {before} come before it; compute at least {payload.needs(step)} steps first"
            )
        if before >= payload.order:
            return


def with_history(payload: Payload, computed: Sequence[bool]) -> list[bool]:
    """Per step, whether it computes: the steps given, and those before which a payload has fewer outputs than it needs."""
    before, completed = 0, []
    for step, computes in enumerate(computed):
        completed.append(computes or payload.needs(step) > before)
        before += completed[-1]
    return completed


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """Which outputs of a site are kept, and for how long.

    Attributes:
        keeps: per step, whether an output that is computed there is served later.
        held: per step, how many outputs are held after it.
    """

    keeps: tuple[bool, ...]
    held: tuple[int, ...]


def lifetimes(payload: Payload, computes: Sequence[bool], serves: Sequence[bool]) -> Lifetimes:
    """When outputs of a site are kept.

    Args:
        payload: what its broadcasts are made from.
        computes: per step, whether the site computes.
        serves: per step, whether it serves a broadcast; neither = it is not called, as something around it broadcasts.
    """
    steps = len(computes)
    keeps, needed_after = [False] * steps, [0] * steps
    needed = 0
    for step in reversed(range(steps)):
        needed_after[step] = needed
        if computes[step]:
            keeps[step] = needed > 0
            needed = max(needed - 1, 0)
        elif serves[step]:
            needed = max(needed, payload.needs(step))
    held, count = [], 0
    for step in range(steps):
        count = min(count + keeps[step], needed_after[step])
        held.append(count)
    return Lifetimes(tuple(keeps), tuple(held))


def gaps_of(computed: Sequence[int], steps: int) -> list[tuple[int, int]]:
    """Runs of steps that do not compute, as half-open intervals.

    Args:
        computed: the steps that compute, rising from 0.
        steps: number of steps.
    """
    return [(before + 1, after) for before, after in pairwise([*computed, steps]) if after > before + 1]
