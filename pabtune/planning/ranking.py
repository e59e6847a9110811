"""Ranking of schedules of whole calls from a profile alone: no model runs.

Knows profiles, policies and the surrogate; knows nothing of how a profile was measured.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pabtune.planning.masks import resolve
from pabtune.planning.schedules import NoiseSchedule
from pabtune.planning.surrogate import Factors, Surrogate, gain_curve, objective_of
from pabtune.planning.units import units_of
from pabtune.records.errors import PolicyError, ProfileError
from pabtune.records.policies import Policy
from pabtune.records.profiles import NO_SENSITIVITY, Profile


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedSchedule:
    """A schedule of whole calls, as the surrogate sees it.

    Attributes:
        index: its place in what was given.
        computed: the steps that compute.
        error: mean squared error of the final latents, geometric mean over the profile's prompts.
        worst_error: the largest of a prompt.
        objective: what schedules are ranked by; smaller is better.
    """

    index: int
    computed: tuple[int, ...]
    error: float
    worst_error: float
    objective: float

    def to_document(self) -> dict[str, Any]:
        """The schedule as JSON."""
        return {**asdict(self), "computed": list(self.computed)}


def rank_schedules(
    profile: Profile, schedules: Sequence[Policy | Sequence[int]], content: str | None = None
) -> list[RankedSchedule]:
    """Schedules of whole calls, the closest to the full run first, by a profile alone: a millisecond each, no video.

    Args:
        profile: of the model, which measured what its whole calls put out.
        schedules: policies of whole calls, or the steps that compute, which are ranked with the factors that suit them best.
        content: rank for prompts of this content class, by the policies' variants for it where they have one; None = for all.

    Raises:
        ProfileError: the profile did not measure what is needed, or has no such content class.
        PolicyError: a policy broadcasts anything but whole calls, or is for another model or other steps.
    """
    surrogate = surrogate_of_profile(profile, content)
    ranked = []
    for index, schedule in enumerate(schedules):
        computed, factors = (
            _of_policy(profile, surrogate, schedule, content if content in schedule.variants else None)
            if isinstance(schedule, Policy)
            else _of_steps(surrogate, schedule)
        )
        errors = surrogate.errors(computed, factors)
        ranked.append(
            RankedSchedule(
                index=index,
                computed=computed,
                error=float(np.exp(np.log(np.maximum(errors, 1e-12)).mean())),
                worst_error=float(errors.max()),
                objective=objective_of(errors),
            )
        )
    return sorted(ranked, key=lambda each: each.objective)


def surrogate_of_profile(profile: Profile, content: str | None = None) -> Surrogate:
    """The surrogate of a profile's prompts.

    Args:
        profile: the profile.
        content: of the prompts of this content class; None = of all.

    Raises:
        ProfileError: the profile did not measure what is needed, or has no such content class.
    """
    if not profile.has_sensitivity:
        reason = profile.provenance.get(NO_SENSITIVITY, "it was made before what is needed was measured; profile again")
        raise ProfileError(f"profile {profile.name!r} cannot rank schedules: {reason}")
    if content not in (None, *profile.contents):
        raise ProfileError(
            f"profile {profile.name!r} has no content {content!r}; it has: {', '.join(profile.contents)}"
        )
    contents = [each for each in profile.contents for _ in range(profile.prompts[each])]
    rows = [index for index, each in enumerate(contents) if content in (None, each)]
    arrays = profile.arrays
    return Surrogate(
        products=arrays["products"][rows].astype(np.float64),
        keeps=arrays["keeps"].astype(np.float64),
        rates=arrays["rates"].astype(np.float64),
        gains=_gains(arrays["gains"].astype(np.float64))[rows],
        takeovers=_takeovers(profile),
    )


def _gains(measured: NDArray[np.float64]) -> NDArray[np.float64]:
    """Gains of all steps and prompts, from those measured at some steps of some prompts, (prompts, steps).

    The other prompts take these in turns, not their mean: what differs between prompts decides about the worst.
    """
    prompts, steps = measured.shape
    curves = {
        index: gain_curve({int(place): float(row[place]) for place in np.flatnonzero(~np.isnan(row))}, steps)
        for index, row in enumerate(measured)
        if not np.isnan(row).all()
    }
    turns = list(curves.values()) or [np.ones(steps)]
    return np.array([curves.get(index, turns[index % len(turns)]) for index in range(prompts)])


def _takeovers(profile: Profile) -> frozenset[int]:
    """Steps in which another transformer takes over."""
    called = [
        {site.transformer for site, seconds in zip(profile.sites, column, strict=True) if seconds > 0}
        for column in profile.arrays["seconds"].T
    ]
    return frozenset(step for step in range(1, profile.steps) if called[step] != called[step - 1])


def _of_steps(surrogate: Surrogate, steps: Sequence[int]) -> tuple[tuple[int, ...], Factors]:
    """Computed steps of a list, and the factors that suit them best."""
    if not steps or steps[0] != 0 or list(steps) != sorted(set(steps)) or steps[-1] >= surrogate.steps:
        raise PolicyError(
            f"the steps that compute start with 0 and rise to at most {surrogate.steps - 1}, but are {list(steps)}"
        )
    computed = tuple(sorted({*steps, *surrogate.takeovers}))
    return computed, surrogate.factors(computed)


def _of_policy(
    profile: Profile, surrogate: Surrogate, policy: Policy, content: str | None
) -> tuple[tuple[int, ...], Factors]:
    """Computed steps of a policy, and its payloads as factors."""
    if policy.steps not in (None, profile.steps):
        raise PolicyError(
            f"policy {policy.name!r} is a run of {policy.steps} steps, and profile {profile.name!r} is of {profile.steps}; "
            "another number of steps cannot be ranked without a video"
        )
    if policy.made_for.fingerprint not in (None, profile.made_for.fingerprint):
        raise PolicyError(f"policy {policy.name!r} was made for another model than that of profile {profile.name!r}")
    others = sorted({rule.kind for rule in policy.rules_for(content)} - {"transformer"})
    if others:
        raise PolicyError(
            f"policy {policy.name!r} broadcasts {', '.join(others)}; only whole calls can be ranked without a video"
        )
    sites = [*profile.sites, *units_of(policy, profile.sites, content)]
    schedule = NoiseSchedule(steps=profile.steps, sigmas=profile.made_for.sigmas)
    mask = resolve(policy, sites, schedule, content).where_called(profile.arrays["seconds"] > 0)
    history: list[int] = []
    computed: list[int] = []
    factors: list[tuple[float, ...]] = []
    for step in range(profile.steps):
        rows = np.flatnonzero(mask.broadcasts[:, step]).tolist()
        if rows:
            weights = mask.weights(rows[0], history, step)
            # weights of outputs, the oldest first, as factors of changes, the latest first
            factors.append(tuple(-sum(weights[: len(weights) - back]) for back in range(1, len(weights))))
        else:
            history = [step] if step in surrogate.takeovers else [*history, step]
            computed.append(step)
            factors.append(())
    return tuple(computed), tuple(factors)
