"""What an engine does otherwise than a policy, in words, counted in steps."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from pabtune.engines.blocks import BlockList, held_layers
from pabtune.engines.engine import Engine
from pabtune.engines.step_masks import MASKED, HeldRows, StepMask, span, unserved
from pabtune.planning.masks import resolve
from pabtune.planning.rule_sites import rule_sites
from pabtune.planning.schedules import NoiseSchedule
from pabtune.records.errors import PolicyError
from pabtune.records.policies import Policy
from pabtune.records.rules import Rule


def differences(
    mask: StepMask, rows: Sequence[HeldRows], lists: tuple[BlockList, ...] | None, engine: Engine
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
        yield from __block_differences(chosen, lists, engine, mask.held)
    other = unserved(mask)
    if other:
        yield (
            f"payload: in {len(other)} of {mask.held} held steps ({span(other)}) the policy serves something else than the "
            f"{'line through the last two residuals' if mask.is_line else 'last residual'}"
        )


def __block_differences(
    rows: HeldRows, lists: tuple[BlockList, ...] | None, engine: Engine, held: int
) -> Iterator[str]:
    """Which blocks an engine holds beside those of a stack, and which not."""
    if lists is None:
        behind = engine.held != "all"
        yield (
            f"stack: which blocks the model has is not known, say --layers N; {engine.name} holds all"
            f"{' but the first' if behind else ''} in {held} steps"
        )
        return
    theirs = set(held_layers(engine, lists))
    more, fewer = sorted(theirs - rows.layers), sorted(rows.layers - theirs)
    total = sum(each.count for each in lists)
    if more:
        yield f"stack: layers {span(more)} of {total} are held too, in each of {held} held steps"
    if fewer:
        yield f"stack: layers {span(fewer)} of {total} compute there, in each of {held} held steps"


def other_rules(policy: Policy, rules: Sequence[Rule], schedule: NoiseSchedule, content: str | None) -> Iterator[str]:
    """Rules that no mask of steps expresses, each with the number of steps in which it broadcasts."""
    for name in policy.variants:
        if name != content:
            yield f"variant for {name}: export it with --content {name}"
    if policy.store != "exact":
        yield f"store {policy.store}: residuals are kept as they are"
    for rule in rules:
        if rule.kind in MASKED:
            continue
        alone = replace(policy, rules=(rule,), variants={}, classifier=None, first_steps=None)
        try:
            mask = resolve(alone, rule_sites(alone).sites, schedule)
            held = int((~mask.compute).sum(axis=1).max(initial=0))
        except PolicyError:
            held = 0
        layers = "" if rule.layers is None else f" of layers {span(rule.layers)}"
        count = f"{held} of {schedule.steps} steps broadcast; " if held else ""
        yield f"{rule.kind}{layers}: {count}only runs of whole blocks are held there"
