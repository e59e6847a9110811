"""Where the hooks of a policy that decides in a run stand: its stacks, the blocks before them, and what it looks at.

Blocks run in the order of their layers; lists of blocks whose layers have the same numbers take turns.
"""

from dataclasses import dataclass, replace
from itertools import groupby
from typing import Literal

from pabtune.planning.units import blocks_of
from pabtune.records.errors import ModelError
from pabtune.records.sites import Site
from pabtune.runtime.deciders import DynamicPolicy
from pabtune.runtime.targets import Target

Role = Literal["stack", "front", "attention", "watched"]
"""`stack`: a run of blocks that serves. `front`: a block before it. `attention`: whose input is looked at. `watched`: whose
output is."""


@dataclass(frozen=True, slots=True)
class HookedSite:
    """A place with a hook.

    Attributes:
        site: the place; of a stack its first block, with the others as feeders.
        role: what the hook is for.
        is_first: of a front block, whether it is the first.
        is_last: of a front block, whether it is the last.
    """

    site: Site
    role: Role
    is_first: bool = False
    is_last: bool = False


def lay_out(target: Target, policy: DynamicPolicy) -> tuple[HookedSite, ...]:
    """The places with hooks in all transformers of a model.

    Raises:
        ModelError: a transformer lacks what the policy needs.
    """
    return tuple(each for name in target.transformers for each in _lay_out(name, target, policy))


def _lay_out(name: str, target: Target, policy: DynamicPolicy) -> list[HookedSite]:
    """The places with hooks in one transformer."""
    if policy.unit == "call" and policy.point == "call" and policy.watch != "site":
        return []
    sites = [site for site in target.sites if site.transformer == name]
    blocks = sorted(blocks_of(sites), key=lambda block: block.layer)
    last = len(blocks) - policy.back
    if last <= policy.front:
        raise ModelError(
            f"{name} has {len(blocks)} blocks, of which {policy.front + policy.back} always compute under {policy.name}; "
            "nothing is left to skip"
        )
    hooked = [
        HookedSite(site=block, role="front", is_first=index == 0, is_last=index == policy.front - 1)
        for index, block in enumerate(blocks[: policy.front])
    ]
    hooked += [HookedSite(site=stack, role="stack") for stack in _stacks_of(blocks[policy.front : last])]
    if policy.point == "attention":
        hooked.append(HookedSite(site=_alone(first_attention(sites, blocks[0])), role="attention"))
    if policy.watch == "site":
        hooked += [HookedSite(site=_alone(site), role="watched") for site in sites if site.path == policy.site]
    return hooked


def _alone(site: Site) -> Site:
    """A site without its feeders, which compute."""
    return replace(site, feeders=())


def _stacks_of(blocks: list[Site]) -> list[Site]:
    """A stack for each list of blocks, in the order in which they begin."""
    lists = sorted(blocks, key=lambda block: block.path.rpartition(".")[0])
    stacks = []
    for _, run in groupby(lists, key=lambda block: block.path.rpartition(".")[0]):
        first, *others = run
        feeders = tuple(block.path for block in others)
        stacks.append(
            Site(transformer=first.transformer, path=first.path, kind="stack", layer=first.layer, feeders=feeders)
        )
    return sorted(stacks, key=lambda stack: [block.path for block in blocks].index(stack.path))


def first_attention(sites: list[Site], block: Site) -> Site:
    """The first self-attention of a block.

    Raises:
        ModelError: it has none.
    """
    for site in sites:
        if site.block == block.path and site.kind in ("full", "spatial", "temporal"):
            return site
    raise ModelError(f"{block.path} of {block.transformer} has no self-attention whose input could be looked at")
