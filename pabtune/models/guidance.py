"""Calls per denoising step, and the guidance branch of each: from the card and the pipeline's public state.

Knows properties and arguments of pipelines; knows nothing of what is done with the answers.
"""

import inspect
from collections.abc import Mapping
from functools import reduce
from typing import Any, Literal

from pabtune.catalog import ModelCard
from pabtune.catalog.card import ByArguments, ByCount, ByProperties

Role = Literal["conditional", "unconditional", "both", "other"]
"""Guidance branches that a call computes; `other` is a further pass of the conditional one, or unknown."""

ROLES: Mapping[str, Role] = {
    "cond": "conditional", "pred_cond": "conditional", "uncond": "unconditional", "pred_uncond": "unconditional",
    "cond+uncond": "both", "cond_uncond": "both",
}  # fmt: skip
"""Roles by the names that pipelines give their calls."""


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


def role_of(card: ModelCard | None, name: str | None, ordinal: int, calls: float) -> Role | None:
    """Guidance branches that a call computes; None if nothing tells.

    Args:
        card: the card of the transformer's class.
        name: name that the pipeline gives the call; None without one.
        ordinal: number of earlier calls without a name in this step.
        calls: calls per step (see `calls_per_step`).
    """
    if name is not None:
        return ROLES.get(name, "other")
    conditional = card.guidance.conditional if card is not None else None
    if card is None or conditional is None:
        return None
    if card.guidance.order == "batched":
        return "both" if ordinal == 0 else None
    if calls != 2 or ordinal > 1:
        return None
    return "conditional" if (ordinal == 0) == (conditional == "first") else "unconditional"


def conditional_half(card: ModelCard | None, name: str | None) -> int:
    """Which half of the samples of a call with both branches is conditional: 0 or 1.

    Our pipelines put the conditional samples first, and say so in the name of the call; diffusers' put them last.

    Args:
        card: the card of the transformer's class.
        name: name that the pipeline gives the call; None without one: the card says it.
    """
    if name is not None:
        return 0 if name == "cond+uncond" else 1
    return 0 if card is not None and card.guidance.conditional == "first" else 1


def is_guided(card: ModelCard | None, pipeline: Any, arguments: Mapping[str, Any]) -> bool | None:
    """Whether a pipeline says before its first step that its run has an unconditional branch; None if it does not say.

    Args:
        card: the card of the transformer's class.
        pipeline: the pipeline that runs.
        arguments: arguments of the pipeline's call by name.
    """
    match card.guidance.when if card is not None else None:
        case ByProperties() as rule:
            names, above = ((rule.batched,), 0.0) if rule.batched else (rule.names, rule.above)
            values = [getattr(pipeline, name) for name in names if hasattr(pipeline, name)]
            return any(float(value or 0) > above for value in values) if values else None
        case ByArguments() as rule:
            return _by_arguments(rule, pipeline, arguments) > 1
        case ByCount():
            return None  # a guider may guide some of the steps
    if hasattr(pipeline, "do_classifier_free_guidance"):
        return bool(pipeline.do_classifier_free_guidance)
    return float(pipeline.guidance_scale or 0) > 1 if hasattr(pipeline, "guidance_scale") else None


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
