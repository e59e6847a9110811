"""What of a policy an engine is to do: for each transformer, which steps compute, and what the others serve.

The mask is the policy's own, resolved on its own schedule. What an engine does otherwise is told in words and counted in
steps.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pabtune.engines.blocks import BlockList, block_lists
from pabtune.engines.engine import Engine
from pabtune.engines.guidance_calls import guidance_calls
from pabtune.engines.losses import differences, other_rules
from pabtune.engines.step_masks import MASKED, StepMask, rows_of, step_mask
from pabtune.planning.masks import ComputeMask, resolve
from pabtune.planning.rule_sites import MOST_LAYERS
from pabtune.planning.schedules import NoiseSchedule
from pabtune.planning.units import units_of
from pabtune.records.errors import PolicyError
from pabtune.records.policies import Policy
from pabtune.records.profiles import Profile
from pabtune.records.rules import Rule
from pabtune.records.sites import Site

MOST_STEPS = 10_000
"""More than any run has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What an engine is to do.

    Attributes:
        policy: of which it is.
        engine: the engine.
        steps: of the run.
        masks: one for each transformer, in the order in which they take turns.
        losses: what the engine does otherwise, in words.
        calls: how often a step calls a transformer for guidance: 1 or 2; None = unknown.
        facts: what the policy's file did not tell.
    """

    policy: Policy
    engine: Engine
    steps: int
    masks: tuple[StepMask, ...]
    losses: tuple[str, ...] = ()
    calls: int | None = None
    facts: "Facts"

    @property
    def held(self) -> int:
        """Number of steps that do not compute."""
        return sum(mask.held for mask in self.masks)

    def with_loss(self, *losses: str) -> "Plan":
        """The plan with more losses."""
        return replace(self, losses=(*self.losses, *losses))


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a policy's file does not tell.

    Attributes:
        content: the content class whose variant is meant; None = the general rules.
        steps: of the run; None = those that the policy was made for.
        layers: numbers of blocks of each list; empty = as the policy's file says.
        boundary: noise level from which the first of two transformers gives way to the second.
        calls: calls of a step for guidance; None = as the card and the policy's file say.
        profile: of the model, by which the time is predicted, and which tells when transformers take turns.
    """

    content: str | None = None
    steps: int | None = None
    layers: tuple[int, ...] = ()
    boundary: float | None = None
    calls: int | None = None
    profile: Profile | None = None


FROM_FILE = Facts()
"""Nothing but what the policy's file tells."""


def schedule_of(policy: Policy, steps: int | None) -> NoiseSchedule:
    """The schedule that an export is for: the policy's own.

    Raises:
        PolicyError: it was made for other steps than those asked for, or for any and none are asked for.
    """
    own = policy.steps or policy.made_for.steps or len(policy.made_for.sigmas or ()) or None
    if own is None and steps is None:
        raise PolicyError(
            f"policy {policy.name!r} does not say how many steps it is for, and a mask must; add --steps N"
        )
    if own is not None and steps not in (None, own):
        raise PolicyError(
            f"policy {policy.name!r} is for {own} steps, but --steps says {steps}: a mask holds for one number of steps; "
            f"search again with --steps {steps}"
        )
    sigmas = policy.made_for.sigmas
    count = own or steps or 0
    if count > MOST_STEPS:
        raise PolicyError(f"policy {policy.name!r} is for {count} steps, but no run has more than {MOST_STEPS}")
    return NoiseSchedule(steps=count, sigmas=sigmas if sigmas is not None and len(sigmas) == count else None)


def plan_of(policy: Policy, engine: Engine, facts: Facts = FROM_FILE) -> Plan:
    """What an engine that takes masks is to do of a policy.

    Raises:
        PolicyError: the content class is unknown, the number of steps is missing or another one, two rules meet, or nobody
            says where a second transformer takes over.
    """
    rules = policy.rules_for(facts.content)
    masked = replace(
        policy, rules=tuple(r for r in rules if r.kind in MASKED), variants={}, classifier=None, first_steps=None
    )
    schedule = schedule_of(policy, facts.steps)
    names = _transformers(policy, rules)
    lists = {
        name: block_lists(policy.made_for.model, policy.made_for.config.get(name, {}), facts.layers) for name in names
    }
    mask = _mask(masked, lists, schedule, _called(policy, names, schedule, facts))
    masks, losses = [], list(other_rules(policy, rules, schedule, facts.content))
    for name in names:
        called = np.ones(schedule.steps, dtype=bool) if mask.called is None else called_of(mask, name)
        if not called.any():
            continue
        rows = sorted(rows_of(mask, name), key=lambda each: (each.kind != "stack", -each.weight))
        masks.append(step_mask(mask, name, rows[0] if rows else None, called, engine))
        where = f"{name}: " if len(names) > 1 else ""
        losses += [where + each for each in differences(masks[-1], rows, lists[name], engine)]
    model = policy.made_for.model or "a class that the policy does not name"
    if engine.is_run and model not in engine.models and any(mask.held for mask in masks):
        losses.append(f"model: {model} was not run in {engine.name} here; compare a video before you trust it")
    own_steps = policy.steps if policy.steps != policy.made_for.steps else None
    if own_steps is not None:
        losses.append(f"its {own_steps} denoising steps: ask the engine for them when you call it")
    return Plan(
        policy=policy,
        engine=engine,
        steps=schedule.steps,
        masks=tuple(masks),
        losses=tuple(losses),
        calls=guidance_calls(policy) if facts.calls is None else facts.calls,
        facts=facts,
    )


def _transformers(policy: Policy, rules: Sequence[Rule]) -> list[str]:
    """Names of the transformers, those of the policy's file first."""
    named = [rule.transformer for rule in rules if rule.transformer is not None]
    return sorted(dict.fromkeys([*policy.made_for.config, *named])) or ["transformer"]


def _called(policy: Policy, names: Sequence[str], schedule: NoiseSchedule, facts: Facts) -> Mapping[str, np.ndarray]:
    """For each transformer, whether a step calls it; empty = there is one, and all do."""
    if len(names) == 1:
        return {}
    if facts.profile is not None and facts.profile.steps == schedule.steps:
        seconds, sites = facts.profile.arrays["seconds"], facts.profile.sites
        missing = sorted(set(names) - {site.transformer for site in sites})
        if missing:
            raise PolicyError(
                f"policy {policy.name!r} is for {missing[0]}, which profile {facts.profile.name!r} has not"
            )
        rows = {name: seconds[[site.transformer == name for site in sites]] for name in names}
        return {name: np.asarray((own > 0).any(axis=0)) for name, own in rows.items()}
    if facts.boundary is None or len(names) > 2:
        raise PolicyError(
            f"policy {policy.name!r} is for {', '.join(names)}, which take turns; say from which noise level on the second "
            "one is called, as the pipeline's boundary_ratio does: --boundary 0.875"
        )
    if schedule.sigmas is None:
        raise PolicyError(f"policy {policy.name!r} does not tell its noise levels, by which transformers take turns")
    is_first = np.array(schedule.sigmas) >= facts.boundary - 1e-6
    return {names[0]: is_first, names[1]: ~is_first}


def _mask(
    masked: Policy,
    lists: Mapping[str, tuple[BlockList, ...] | None],
    schedule: NoiseSchedule,
    called: Mapping[str, np.ndarray],
) -> ComputeMask:
    """The compute mask of whole calls and stacks."""
    last = 1 + max((layer for rule in masked.rules for layer in rule.layers or ()), default=0)
    if last > MOST_LAYERS:
        raise PolicyError(f"policy {masked.name!r}: a rule names layer {last - 1}, but no model has that many")
    unknown = (BlockList(path="blocks", first=0, count=last + 1),)
    sites: list[Site] = [
        site for name, known in lists.items() for each in known or unknown for site in each.sites(name)
    ]
    mask = resolve(masked, [*sites, *units_of(masked, sites)], schedule)
    if called:
        mask = mask.where_called(np.stack([called[site.transformer] for site in sites]))
    return mask


def called_of(mask: ComputeMask, name: str) -> np.ndarray:
    """Whether a step calls a transformer."""
    assert mask.called is not None
    return next(row for site, row in zip(mask.sites, mask.called, strict=True) if site.transformer == name)
