"""What of a policy an engine is to do: for each transformer, which steps compute, and what the others serve.

The mask is the policy's own, resolved on its own schedule. What an engine does otherwise is told in words and counted in
steps.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from pabtune.engines.blocks import BlockList, block_lists
from pabtune.engines.engine import Engine
from pabtune.engines.guidance_calls import guidance_calls
from pabtune.planning.masks import ComputeMask, resolve
from pabtune.planning.rule_sites import rule_sites
from pabtune.planning.schedules import NoiseSchedule
from pabtune.planning.units import units_of
from pabtune.records.errors import PolicyError
from pabtune.records.policies import Policy
from pabtune.records.profiles import Profile
from pabtune.records.rules import Rule
from pabtune.records.sites import Kind, Site

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
class Plan:
    """What an engine is to do.

    Attributes:
        policy: of which it is.
        engine: the engine.
        steps: of the run.
        masks: one for each transformer, in the order in which they take turns.
        losses: what the engine does otherwise, in words.
        calls: how often a step calls a transformer for guidance: 1 or 2; None = unknown.
        has_text_between: whether the text's residual of one list of blocks goes into another list.
        facts: what the policy's file did not tell.
    """

    policy: Policy
    engine: Engine
    steps: int
    masks: tuple[StepMask, ...]
    losses: tuple[str, ...] = ()
    calls: int | None = None
    has_text_between: bool = False
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rows:
    """The rows of a mask that one transformer's engine mask is made of."""

    computes: np.ndarray
    index: int
    kind: Kind
    layers: frozenset[int] = field(default_factory=frozenset)

    @property
    def weight(self) -> int:
        return int((~self.computes).sum()) * max(len(self.layers), 1)


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
    return NoiseSchedule(steps=count, sigmas=sigmas if sigmas is not None and len(sigmas) == count else None)


def plan_of(policy: Policy, engine: Engine, facts: Facts = FROM_FILE) -> Plan:
    """What an engine that takes masks is to do of a policy.

    Raises:
        PolicyError: the content class is unknown, the number of steps is missing or another one, two rules meet, or nobody
            says where a second transformer takes over.
    """
    rules = policy.rules_for(facts.content)
    masked = replace(policy, rules=tuple(r for r in rules if r.kind in MASKED), variants={}, classifier=None)
    schedule = schedule_of(policy, facts.steps)
    names = _transformers(policy, rules)
    lists = {
        name: block_lists(policy.made_for.model, policy.made_for.config.get(name, {}), facts.layers) for name in names
    }
    mask = _mask(masked, lists, schedule, _called(policy, names, schedule, facts))
    masks, losses = [], list(_other_rules(policy, rules, schedule, facts.content))
    for name in names:
        called = np.ones(schedule.steps, dtype=bool) if mask.called is None else _called_of(mask, name)
        rows = sorted(_rows_of(mask, name), key=lambda each: (each.kind != "stack", -each.weight))
        masks.append(_step_mask(mask, name, rows[0] if rows else None, called, engine))
        where = f"{name}: " if len(names) > 1 else ""
        losses += [where + each for each in _differences(masks[-1], rows, lists[name], engine)]
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
        has_text_between=any(known is not None and len(known) > 1 for known in lists.values()),
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
        rows = {name: seconds[[site.transformer == name for site in sites]] for name in names}
        return {name: (own > 0).any(axis=0) for name, own in rows.items()}
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
    unknown = (BlockList(path="blocks", first=0, count=last + 1),)
    sites: list[Site] = [
        site for name, known in lists.items() for each in known or unknown for site in each.sites(name)
    ]
    mask = resolve(masked, [*sites, *units_of(masked, sites)], schedule)
    if called:
        mask = mask.where_called(np.stack([called[site.transformer] for site in sites]))
    return mask


def _called_of(mask: ComputeMask, name: str) -> np.ndarray:
    """Whether a step calls a transformer."""
    assert mask.called is not None
    return next(row for site, row in zip(mask.sites, mask.called, strict=True) if site.transformer == name)


def _rows_of(mask: ComputeMask, name: str) -> Iterator[_Rows]:
    """Rows of a transformer that are sometimes held; stacks of the same steps and payload as one."""
    merged: dict[tuple[object, ...], _Rows] = {}
    for index, site in enumerate(mask.sites):
        row = mask.compute[index]
        if site.transformer != name or site.kind not in MASKED or row.all():
            continue
        layers = (
            frozenset(range(site.layer, site.layer + 1 + len(site.feeders))) if site.kind == "stack" else frozenset()
        )
        key = (site.kind, row.tobytes(), mask.payload(index))
        known = merged.get(key)
        merged[key] = _Rows(
            computes=row, index=index, kind=site.kind, layers=layers | (known.layers if known else frozenset())
        )
    yield from merged.values()


def _step_mask(mask: ComputeMask, name: str, rows: _Rows | None, called: np.ndarray, engine: Engine) -> StepMask:
    """The mask of one transformer, over the steps that it is called in."""
    steps = np.flatnonzero(called).tolist()
    start = steps[0] if steps else 0
    if rows is None:
        return StepMask(transformer=name, start=start, computes=(True,) * len(steps), serves=("hold",) * len(steps))
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


def _differences(
    mask: StepMask, rows: Sequence[_Rows], lists: tuple[BlockList, ...] | None, engine: Engine
) -> Iterator[str]:
    """What an engine does otherwise than the rules of its mask, in words."""
    if not rows:
        return
    chosen, *others = rows
    for each in others:
        if each.kind == "stack":
            yield f"stack of layers {span(each.layers)}: {int((~each.computes).sum())} held steps; one mask is for all"
    if any(each.kind == "transformer" for each in rows):
        skipped = next(int((~each.computes).sum()) for each in rows if each.kind == "transformer")
        yield (
            f"transformer: its {skipped} skipped calls are exported as held blocks, which also compute the embedding and the "
            "last layer in each of them; videos of that were not measured"
        )
    if lists is not None and len({each.first for each in lists}) < len(lists):
        yield f"stack: lists of blocks that take turns ({', '.join(each.path for each in lists)}) are not held as one there"
    if chosen.kind == "stack":
        yield from _block_differences(chosen, lists, engine, mask.held)
    other = unserved(mask)
    if other:
        yield (
            f"payload: in {len(other)} of {mask.held} held steps ({span(other)}) the policy serves something else than the "
            f"{'line through the last two residuals' if mask.is_line else 'last residual'}"
        )


def _block_differences(rows: _Rows, lists: tuple[BlockList, ...] | None, engine: Engine, held: int) -> Iterator[str]:
    """Which blocks an engine holds beside those of a stack, and which not."""
    if lists is None:
        behind = engine.held != "all"
        yield (
            f"stack: which blocks the model has is not known, say --layers N; {engine.name} holds all"
            f"{' but the first' if behind else ''} in {held} steps"
        )
        return
    theirs = {layer for each in lists for layer in (each.layers if engine.held == "all" else each.layers[1:])}
    more, fewer = sorted(theirs - rows.layers), sorted(rows.layers - theirs)
    total = sum(each.count for each in lists)
    if more:
        yield f"stack: layers {span(more)} of {total} are held too, in each of {held} held steps"
    if fewer:
        yield f"stack: layers {span(fewer)} of {total} compute there, in each of {held} held steps"


def _other_rules(policy: Policy, rules: Sequence[Rule], schedule: NoiseSchedule, content: str | None) -> Iterator[str]:
    """Rules that no mask of steps expresses, each with the number of steps in which it broadcasts."""
    for name in policy.variants:
        if name != content:
            yield f"variant for {name}: export it with --content {name}"
    if policy.store != "exact":
        yield f"store {policy.store}: residuals are kept as they are"
    for rule in rules:
        if rule.kind in MASKED:
            continue
        alone = replace(policy, rules=(rule,), variants={}, classifier=None)
        try:
            mask = resolve(alone, rule_sites(alone).sites, schedule)
            held = int((~mask.compute).sum(axis=1).max(initial=0))
        except PolicyError:
            held = 0
        layers = "" if rule.layers is None else f" of layers {span(rule.layers)}"
        count = f"{held} of {schedule.steps} steps broadcast; " if held else ""
        yield f"{rule.kind}{layers}: {count}only runs of whole blocks are held there"


def span(numbers: Iterable[int]) -> str:
    """Whole numbers as runs: 1..4, 7."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}..{run[-1]}" for run in runs)
