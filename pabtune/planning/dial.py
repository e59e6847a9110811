"""A policy between two of a front, so that a server has a dial: schedules of whole calls are interpolated by their quantiles.

The k-th of n computed steps lies, in both schedules, at the same share of all computed steps (OTCache,
https://arxiv.org/abs/2606.31026); between two schedules it is moved from one place to the other. Factors are carried as
ratios to the extrapolation over the noise level that a schedule asks for, since they depend on the gaps between its computed
steps, and are kept within bounds, since short gaps make these ratios wild. What comes out is 1 to 4 dB further from the full
run than a schedule that was searched for the same number of steps, and below a third of the steps no better than the cheaper
end (docs/log.md). Knows rules and noise levels; nothing is measured of what it makes.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pabtune.planning.schedules import NoiseSchedule
from pabtune.records.errors import PolicyError
from pabtune.records.policies import Policy
from pabtune.records.rules import MOST_FACTORS, Rule

FIRST_RATIO, OTHER_RATIO = (0.0, 1.2), (-0.3, 0.3)
"""Bounds of the ratios to the latest change and to those before."""


def between(first: Policy, second: Policy, count: int) -> Policy:
    """A policy of whole calls with so many computed steps, between two others.

    Args:
        first: a policy whose only rule is a schedule of whole calls with fitted factors.
        second: another one, for the same model and schedule.
        count: number of computed steps, from that of the one to that of the other.

    Raises:
        PolicyError: a policy has other rules, they were made for different schedules, or `count` is not between theirs.
    """
    few, many = sorted((first, second), key=lambda policy: len(_rule_of(policy).compute or ()))
    few_steps, many_steps = (np.array(_rule_of(policy).compute) for policy in (few, many))
    if first.made_for != second.made_for or first.made_for.steps is None:
        raise PolicyError(f"policies {first.name!r} and {second.name!r} were made for different models or schedules")
    if not len(few_steps) <= count <= len(many_steps):
        raise PolicyError(
            f"{count} computed steps are not between the {len(few_steps)} of {few.name!r} and the {len(many_steps)} of "
            f"{many.name!r}"
        )
    weight = (count - len(few_steps)) / max(len(many_steps) - len(few_steps), 1)
    computed = _distinct((1 - weight) * _quantiles(few_steps, count) + weight * _quantiles(many_steps, count))
    schedule = NoiseSchedule(steps=first.made_for.steps, sigmas=first.made_for.sigmas)
    ratios = np.zeros((schedule.steps, MOST_FACTORS))
    for policy, part in ((few, 1 - weight), (many, weight)):
        own = _ratios(_rule_of(policy), schedule)
        ratios[:, : own.shape[1]] += part * own
    ratios = ratios[:, : max(len(each) for policy in (few, many) for each in _rule_of(policy).factors)]
    rule = Rule(kind="transformer", compute=computed, payload="scaled", factors=_factors(computed, ratios, schedule))
    return replace(
        many, name=f"{many.name}-to-{few.name}-{count}", rules=(rule,), variants={}, classifier=None, first_steps=None,
        evidence={}, provenance={"between": [few.name, many.name], **_searched_with(few), **_searched_with(many)},
    )  # fmt: skip


def _searched_with(policy: Policy) -> dict[str, str]:
    """The prompts of the search that a policy is from: these are not unseen by what is made of it either."""
    return {key: policy.provenance[key] for key in ("prompts", "compared_on") if key in policy.provenance}


def _rule_of(policy: Policy) -> Rule:
    rules = policy.rules
    if len(rules) != 1 or rules[0].kind != "transformer" or rules[0].compute is None or rules[0].payload != "scaled":
        raise PolicyError(
            f"policy {policy.name!r} is no schedule of whole calls with fitted factors alone, which `search --front` writes"
        )
    return rules[0]


def _quantiles(steps: NDArray[np.int64], count: int) -> NDArray[np.float64]:
    """Places of so many computed steps that are spread over the run as these are."""
    return np.interp(np.linspace(0, 1, count), np.linspace(0, 1, len(steps)), steps)


def _distinct(places: NDArray[np.float64]) -> tuple[int, ...]:
    """The nearest whole steps, each once, rising from 0."""
    steps = np.round(places).astype(int)
    for index in range(1, len(steps)):
        steps[index] = max(steps[index], steps[index - 1] + 1)
    for index in range(len(steps) - 2, -1, -1):  # the last ones may have been pushed over the end
        steps[index] = min(steps[index], round(places[-1]) - (len(steps) - 1 - index))
    return tuple(steps.tolist())


def _slopes(step: int, computed: Sequence[int], schedule: NoiseSchedule) -> list[float]:
    """For each of the last changes, the factor that extends it to `step` over the noise level."""
    levels = schedule.sigmas or tuple(1 - each / schedule.steps for each in range(schedule.steps))
    history = [each for each in computed if each < step]
    changes = [levels[late] - levels[early] for late, early in zip(history[::-1], history[-2::-1], strict=False)]
    reach = levels[step] - levels[history[-1]]
    return [reach / change if change else 0.0 for change in changes][:MOST_FACTORS]  # timesteps may be repeated


def _ratios(rule: Rule, schedule: NoiseSchedule) -> NDArray[np.float64]:
    """Factors over slopes at every step, (steps, factors): those of broadcast steps, and between these interpolated."""
    computed = rule.compute or ()
    most = max(len(each) for each in rule.factors)
    known = [step for step, factors in enumerate(rule.factors) if factors]
    ratios = np.zeros((schedule.steps, most))
    for index in range(most):
        # A step that too few changes precede may list further factors, which nothing takes.
        places = [
            step for step in known if min(len(rule.factors[step]), len(_slopes(step, computed, schedule))) > index
        ]
        if not places:
            continue
        slopes = [_slopes(step, computed, schedule)[index] for step in places]
        values = [
            rule.factors[step][index] / slope if slope else 0.0 for step, slope in zip(places, slopes, strict=True)
        ]
        low, high = FIRST_RATIO if index == 0 else OTHER_RATIO
        ratios[:, index] = np.clip(np.interp(np.arange(schedule.steps), places, values), low, high)
    return ratios


def _factors(
    computed: Sequence[int], ratios: NDArray[np.float64], schedule: NoiseSchedule
) -> tuple[tuple[float, ...], ...]:
    factors: list[tuple[float, ...]] = []
    for step in range(schedule.steps):
        slopes = [] if step in computed else _slopes(step, computed, schedule)
        factors.append(tuple(float(slope * ratio) for slope, ratio in zip(slopes, ratios[step], strict=False)))
    return tuple(factors)
