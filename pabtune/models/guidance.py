"""Calls per denoising step, and which samples of a call are conditional: from the card and the pipeline's public state.

Knows properties and arguments of pipelines; knows nothing of what is done with the number.
"""

import inspect
from collections.abc import Mapping
from functools import reduce
from typing import Any

from pabtune.catalog import ModelCard
from pabtune.catalog.card import ByArguments, ByCount, ByProperties


def calls_per_step(card: ModelCard | None, pipeline: Any, arguments: Mapping[str, Any]) -> float:
    """Transformer calls per denoising step of one run, in units of the first call: half the samples count as half a call.

    Args:
        card: the card of the transformer's class; without a card, or without a rule in it, there is one call.
        pipeline: the pipeline that runs.
        arguments: arguments of the pipeline's call by name, with or without defaults.

    Raises:
        AttributeError: the pipeline lacks the attribute that the card reads the number of calls from.
    """
    match card.guidance.when if card is not None else None:
        case ByProperties() as rule:
            return _by_properties(rule, pipeline)
        case ByCount() as rule:
            return float(reduce(getattr, rule.attribute.split("."), pipeline))
        case ByArguments() as rule:
            return _by_arguments(rule, pipeline, arguments)
    return 1.0


def conditional_half(card: ModelCard | None, pipeline: Any, branch: str) -> int | None:
    """Which half of the samples of a call is conditional: 0 or 1; None if the call is of one branch.

    Our pipelines put the conditional samples first, and say so in the name of the branch; diffusers' put them last.

    Args:
        card: the card of the transformer's class.
        pipeline: the pipeline that runs; None if there is none.
        branch: name of the call's branch.
    """
    if branch == "cond+uncond":
        return 0
    is_batched = branch == "cond_uncond" or (branch == "all" and card is not None and card.guidance.order == "batched")
    return 1 if is_batched and _is_guided(pipeline) else None


def _is_guided(pipeline: Any) -> bool:
    """Whether a pipeline says that it guides."""
    if hasattr(pipeline, "do_classifier_free_guidance"):
        return bool(pipeline.do_classifier_free_guidance)
    return float(getattr(pipeline, "guidance_scale", None) or 0) > 1


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
