"""How often a pipeline calls its transformer in a step, from its card and what the pipeline says publicly.

Knows properties and arguments of pipelines; knows nothing of what is done with the number.
"""

import inspect
from collections.abc import Mapping
from functools import reduce
from typing import Any

from pabtune.catalog import ModelCard
from pabtune.catalog.card import ByArguments, ByCount, ByProperties


def calls_per_step(card: ModelCard | None, pipeline: Any, arguments: Mapping[str, Any]) -> float:
    """Calls like the first that a step of this run has; a call with half of the samples counts half.

    Args:
        card: of the transformer's class; None or without a rule = one call.
        pipeline: that runs.
        arguments: of its call, by name, with or without defaults.

    Raises:
        AttributeError: the pipeline lacks what the card reads the number of calls from.
    """
    match card.guidance.when if card is not None else None:
        case ByProperties() as rule:
            return _by_properties(rule, pipeline)
        case ByCount() as rule:
            return float(reduce(getattr, rule.attribute.split("."), pipeline))
        case ByArguments() as rule:
            return _by_arguments(rule, pipeline, arguments)
    return 1.0


def _by_properties(rule: ByProperties, pipeline: Any) -> float:
    further = sum(float(getattr(pipeline, name, 0) or 0) > rule.above for name in rule.names)
    is_batched = bool(rule.batched) and bool(getattr(pipeline, rule.batched, False))
    return 1 + further / (1 + is_batched)


def _by_arguments(rule: ByArguments, pipeline: Any, arguments: Mapping[str, Any]) -> float:
    def value(name: str) -> Any:
        if name in arguments:
            return arguments[name]
        parameter = inspect.signature(type(pipeline).__call__).parameters.get(name)
        return None if parameter is None or parameter.default is parameter.empty else parameter.default

    is_given = any(all(value(name) is not None for name in group) for group in rule.given)
    return 1.0 + (is_given and float(value(rule.name) or 0) > rule.above)
