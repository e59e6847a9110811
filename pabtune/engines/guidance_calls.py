"""How often a step calls the transformer for guidance, as far as a card and a policy's file tell."""

from collections.abc import Mapping

from pabtune.catalog import CATALOG, Catalog
from pabtune.catalog.card import ByArguments, ByProperties
from pabtune.records.policies import Policy


def guidance_calls(policy: Policy, catalog: Catalog = CATALOG) -> int | None:
    """Calls of one step: 1, or 2 where the branches have a call each; None = nothing tells, or there may be more.

    Args:
        policy: with the class of its transformer, and the arguments of the pipeline's call that it was made with.
        catalog: cards of the classes.
    """
    card = catalog.find(policy.made_for.model or "")
    if card is None:
        return None
    if card.guidance.order == "batched":
        return 1
    arguments = policy.made_for.settings.get("arguments")
    if not isinstance(arguments, Mapping):
        arguments = {}
    when = card.guidance.when
    if card.guidance.order == "interleaved" and not (isinstance(when, ByProperties) and len(when.names) == 1):
        return None
    if isinstance(when, ByArguments):
        is_above = _number(arguments.get(when.name), 0.0) > when.above
        is_given = any(all(arguments.get(name) is not None for name in group) for group in when.given)
        return 2 if is_above and is_given else 1
    if isinstance(when, ByProperties):
        return 2 if _number(arguments.get("guidance_scale"), 2.0) > 1 else 1
    return 2


def _number(value: object, default: float) -> float:
    return float(value) if isinstance(value, int | float) else default
