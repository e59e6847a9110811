"""Which whole calls, guidance differences, blocks and runs of blocks a policy makes sites of: only those that it names.

A stack is a run of blocks that are broadcast as one: what they add together is kept once, not block by block. Where a model
has several lists of blocks that take turns, such as spatial and temporal ones, a rule makes a stack of each list.
"""

from collections.abc import Sequence

from pabtune.records.errors import PolicyError
from pabtune.records.policies import Policy
from pabtune.records.rules import Rule
from pabtune.records.sites import WHOLE_CALLS, Site


def units_of(policy: Policy, sites: Sequence[Site], content: str | None = None) -> tuple[Site, ...]:
    """The sites of whole calls, guidance differences, blocks or stacks that a policy's rules are for, as their sites come.

    Args:
        policy: whose rules name them.
        sites: of the model, without such.
        content: the content class whose rules are meant.

    Raises:
        PolicyError: a stack whose layers do not follow one another, or blocks beside stacks.
    """
    rules = policy.rules_for(content)
    transformers = dict.fromkeys(site.transformer for site in sites)
    for rule in rules:
        if rule.transformer is not None and rule.transformer not in transformers:
            raise PolicyError(
                f"policy {policy.name!r}: the rule for {rule.kind} is for {rule.transformer}, but the model has "
                f"{', '.join(transformers)}"
            )
    named = {(rule.kind, rule.transformer) for rule in rules}
    calls = tuple(
        Site(transformer=name, path="", kind=kind, layer=0)
        for kind in WHOLE_CALLS
        for name in transformers
        if {(kind, name), (kind, None)} & named
    )
    return calls + _units_of_blocks(policy, sites, content)


def _units_of_blocks(policy: Policy, sites: Sequence[Site], content: str | None) -> tuple[Site, ...]:
    """The sites of kind `block` or `stack`."""
    kinds = {rule.kind for rule in policy.rules_for(content)} & {"block", "stack"}
    if not kinds:
        return ()
    if len(kinds) > 1:
        raise PolicyError(f"policy {policy.name!r}: rules for blocks and for stacks cannot stand side by side")
    blocks = blocks_of(sites)
    if kinds == {"block"}:
        return blocks
    return tuple(
        stack
        for rule in policy.rules_for(content)
        if rule.kind == "stack"
        for stack in _stacks_of(policy.name, rule, blocks)
    )


def blocks_of(sites: Sequence[Site]) -> tuple[Site, ...]:
    """The blocks that hold sites."""
    blocks: dict[tuple[str, str], Site] = {}
    for site in sites:
        if site.block:
            block = Site(transformer=site.transformer, path=site.block, kind="block", layer=site.layer)
            blocks.setdefault((block.transformer, block.path), block)
    return tuple(blocks.values())


def _stacks_of(name: str, rule: Rule, blocks: Sequence[Site]) -> list[Site]:
    """A stack for each list of blocks in which the rule has layers: its first block, and the others as feeders."""
    runs: dict[tuple[str, str], list[Site]] = {}
    for block in blocks:
        is_meant = rule.transformer in (None, block.transformer)
        if is_meant and (rule.layers is None or block.layer in rule.layers):
            runs.setdefault((block.transformer, block.path.rpartition(".")[0]), []).append(block)
    stacks = []
    for run in runs.values():
        layers = [block.layer for block in run]
        if layers != list(range(layers[0], layers[0] + len(layers))):
            raise PolicyError(f"policy {name!r}: the layers of a stack must follow one another, but are {layers}")
        first, *others = run
        feeders = tuple(block.path for block in others)
        stacks.append(
            Site(transformer=first.transformer, path=first.path, kind="stack", layer=first.layer, feeders=feeders)
        )
    return stacks
