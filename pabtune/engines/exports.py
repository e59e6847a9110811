"""A policy for an engine, by the engine's name."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace

from pabtune.engines import (
    attention_ranges,
    cache_dit,
    mag_ratios,
    presets,
    sglang,
    stable_diffusion_cpp,
    xdit,
)
from pabtune.engines.engine import Engine, find_engine
from pabtune.engines.export import Export
from pabtune.engines.plan import FROM_FILE, Facts, Plan, plan_of
from pabtune.engines.step_masks import MASKED, StepMask
from pabtune.records.errors import PolicyError
from pabtune.records.policies import MadeFor, Policy

WRITERS: Mapping[str, Callable[[Plan], Export]] = {
    "cache-dit": cache_dit.write,
    "sglang": sglang.write,
    "xdit": xdit.write,
    "diffusers": mag_ratios.write_diffusers,
    "lightx2v": mag_ratios.write_lightx2v,
    "stable-diffusion.cpp": stable_diffusion_cpp.write,
    "vllm-omni": presets.write,
    "tensorrt-llm": presets.write,
}
"""What writes a plan, by engine."""


def export(policy: Policy, to: str, facts: Facts = FROM_FILE) -> Export:
    """Writes a policy for an engine.

    Args:
        policy: the policy.
        to: name of the engine.
        facts: what the policy's file does not tell.

    Raises:
        PolicyError: the engine or the content class is unknown; the policy is for other steps than those asked for, or for
            none that it names; two rules meet; or the engine has one mask for two transformers that need two.
    """
    engine = find_engine(to)
    if facts.profile is not None:
        policy = replace(policy, made_for=_completed(policy.made_for, facts.profile.made_for))
    rules = policy.rules_for(facts.content)
    if engine.held == "attention" or (engine.name == "diffusers" and not any(rule.kind in MASKED for rule in rules)):
        return attention_ranges.write(policy, engine, facts.content)
    plan = plan_of(policy, engine, facts)
    if not engine.has_masks_by_transformer and len({mask.is_line for mask in plan.masks if mask.held}) > 1:
        plan = plan.with_loss(
            "payload: one transformer holds, the other one extends a line; TaylorSeer is for both or none there"
        )
    if not engine.has_masks_by_transformer and engine.takes_masks:
        _check_one_mask(engine, plan.masks)
    return WRITERS[engine.name](plan)


def _completed(own: MadeFor, profile: MadeFor) -> MadeFor:
    """What a policy was made for, with what it does not say from a profile of the same model and steps."""
    if own.model not in (None, profile.model) or own.steps not in (None, profile.steps):
        return own
    missing = {each.name: getattr(profile, each.name) for each in fields(own) if not getattr(own, each.name)}
    return replace(own, **missing)


def _check_one_mask(engine: Engine, masks: Sequence[StepMask]) -> None:
    """Refuses masks of two transformers where one of them must be the beginning of the other, and is not."""
    if len(masks) == 1:
        return
    shorter, longer = sorted((mask.computes for mask in masks), key=len)
    if engine.name == "stable-diffusion.cpp" or longer[: len(shorter)] != shorter:
        raise PolicyError(
            f"{engine.name} has one mask for both transformers, each of which counts its own steps, so that one's mask must "
            "be the beginning of the other's, and is not; search a policy for that, or use cache-dit or diffusers"
        )
