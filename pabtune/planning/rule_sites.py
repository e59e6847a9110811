"""Sites as a policy's rules name them, where no model is at hand.

They stand in blocks, one for each layer up to the last that a rule names, and one more for all layers behind it. What a rule
names is a site; nothing else is.
"""

from dataclasses import dataclass

from pabtune.planning.masks import serves
from pabtune.planning.units import units_of
from pabtune.records.errors import PolicyError
from pabtune.records.policies import Policy
from pabtune.records.sites import UNITS, WHOLE_CALLS, Kind, Site

MOST_LAYERS = 1000
"""More than any transformer has; a larger index in a rule is a slip."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleSites:
    """The sites that rules name.

    Attributes:
        sites: of modules, blocks, stacks and whole calls.
        last_layer: stands for itself and all layers behind it; no rule names it.
    """

    sites: tuple[Site, ...]
    last_layer: int


def rule_sites(policy: Policy, content: str | None = None) -> RuleSites:
    """The sites that a policy's rules name.

    A policy of whole calls alone, or without rules, always gets a site for the whole call.

    Args:
        policy: the policy.
        content: the content class whose rules are meant.

    Raises:
        PolicyError: a rule names a layer that no model has, or the policy's blocks or stacks do not fit together.
    """
    rules = policy.rules_for(content)
    last_layer = 1 + max((layer for rule in rules for layer in rule.layers or ()), default=-1)
    if last_layer > MOST_LAYERS:
        raise PolicyError(f"policy {policy.name!r}: a rule names layer {last_layer - 1}, but no model has that many")
    kinds: tuple[Kind, ...] = tuple(dict.fromkeys(rule.kind for rule in rules if rule.kind not in UNITS))
    modules = [
        Site(transformer=name, path=f"blocks.{layer}.{kind}", kind=kind, layer=layer, block=f"blocks.{layer}")
        for name in _transformers(policy, content)
        for layer in range(last_layer + 1)
        for kind in kinds or ("full",)  # which no rule names here: only the block around it is needed
    ]
    candidates = (*modules, *units_of(policy, modules, content))
    sites = tuple(site for site in candidates if any(serves(rule, site) for rule in rules))
    if all(rule.kind in WHOLE_CALLS for rule in rules):
        called = {site.transformer for site in sites if site.kind == "transformer"}
        names = [name for name in _transformers(policy, content) if name not in called]
        sites = (*(Site(transformer=name, path="", kind="transformer", layer=0) for name in names), *sites)
    return RuleSites(sites=sites, last_layer=last_layer)


def _transformers(policy: Policy, content: str | None) -> list[str]:
    """Names of the transformers that rules are for; a rule for all is for diffusers' first one too, `transformer`."""
    names = {rule.transformer or "transformer" for rule in policy.rules_for(content)}
    return sorted(names) or ["transformer"]
