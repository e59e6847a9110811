"""A policy of what another engine's file says, for one model and one number of denoising steps.

What is fixed before the run becomes a `Policy`, what the engine decides call by call a `DynamicPolicy` with its decider. What
would run otherwise in the engine is refused in one line, or named in a remark.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pabtune.catalog.card import ByArguments
from pabtune.engines.reading.configuration import (
    AttentionRanges,
    Configuration,
    DualBlocks,
    FirstBlock,
    HeldSteps,
    ModuleSeries,
    Nothing,
)
from pabtune.methods.block_lists import dual_block_layers, front_and_back, has_several_lists
from pabtune.methods.dbcache import FIRST_CHANGE, DualBlockDecider
from pabtune.methods.fbcache import FirstBlockDecider
from pabtune.methods.module_series import module_series_policy
from pabtune.methods.taylorseer import taylor_factors
from pabtune.planning.scm import preset_mask
from pabtune.records.errors import ModelError, PolicyError
from pabtune.records.policies import MadeFor, Policy
from pabtune.records.rules import Rule
from pabtune.records.sites import Kind, Site
from pabtune.runtime.decided_sites import lay_out
from pabtune.runtime.deciders import DynamicPolicy
from pabtune.runtime.targets import Target


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What runs in the place of another engine.

    Attributes:
        policy: it.
        remarks: in what the engine would do otherwise, or hardly what its user meant, a line each.
    """

    policy: Policy | DynamicPolicy
    remarks: tuple[str, ...] = ()


def engine_policy(configuration: Configuration, target: Target, steps: int) -> Judged:
    """The policy of a configuration.

    Args:
        configuration: as it was read.
        target: the model.
        steps: denoising steps of the run.

    Raises:
        PolicyError: the configuration is for another number of steps, or does not fit the model.
    """
    configuration.check_steps(steps)
    on_calls = _remarks_on_calls(configuration, target)
    if configuration.other_for_second and len(target.transformers) > 1:
        raise PolicyError(
            f"{configuration.name}: {', '.join(configuration.other_for_second)} of the second transformer differ from the "
            "first one's, which pabtune cannot judge; make them equal"
        )
    policy, remarks = POLICIES[type(configuration.rule)](configuration, target, steps)
    if isinstance(policy, DynamicPolicy):
        try:
            lay_out(target, policy)
        except ModelError as error:
            raise PolicyError(f"{configuration.name}: {error}") from error
    return Judged(policy=policy, remarks=(*configuration.remarks, *on_calls, *remarks))


def fixed_policy(configuration: Configuration, sites: Sequence[Site] | None, steps: int | None) -> Judged:
    """The policy of a configuration whose steps are known before the run, to show it without a model.

    Args:
        configuration: as it was read.
        sites: of the model; None = unknown: a rule for blocks then names none of them.
        steps: denoising steps; None = those that the configuration is for.

    Raises:
        PolicyError: the steps are not known before the run, or are for another number of steps.
    """
    rule, name, remarks = configuration.rule, configuration.name, configuration.remarks
    if isinstance(rule, DualBlocks) and rule.is_fixed:
        run = steps or configuration.steps or (len(rule.mask) if rule.mask is not None else None)
        if run is None:
            raise PolicyError(f"{name}: the mask {rule.preset!r} depends on the number of denoising steps; say --steps")
        configuration.check_steps(run)
        if sites is None:
            blocks = f"the first {rule.front} and the last {rule.back} blocks compute in all steps"
            remarks = (*remarks, f"{blocks}; a --profile of the model tells which the others are")
        policy = _dual_blocks_policy(name, rule, mask_of(configuration, run), sites)
        return Judged(policy=policy, remarks=remarks)
    if isinstance(rule, HeldSteps):
        run = steps or len(rule.mask)
        configuration.check_steps(run)
        return Judged(policy=_held_steps(configuration, None, run)[0], remarks=remarks)
    if isinstance(rule, Nothing):
        return Judged(policy=Policy(name=name), remarks=remarks)
    raise PolicyError(
        f"{name}: which steps compute is decided in the run; pabtune evaluate MODEL --policy {name} tells what they come to"
    )


def mask_of(configuration: Configuration, steps: int) -> tuple[bool, ...]:
    """The mask of a rule for dual blocks, for one transformer that runs all steps.

    Raises:
        PolicyError: it is for another number of steps, or cache-dit has no preset for so few.
    """
    rule = configuration.rule
    assert isinstance(rule, DualBlocks)
    mask = preset_mask(rule.preset, steps) if rule.preset is not None else rule.mask or ()
    if len(mask) != steps:
        what = "SGLang cuts it" if configuration.is_cut else "the rest of it would be left out"
        if len(mask) < steps:
            what = "SGLang stops" if configuration.is_cut else "the steps behind it count as held, or as free to be"
        raise PolicyError(
            f"{configuration.name}: the mask is for {len(mask)} denoising steps, but the run has {steps}: {what}; say --steps "
            f"{len(mask)}, or write a mask for {steps} steps"
        )
    return mask


def _remarks_on_calls(configuration: Configuration, target: Target) -> list[str]:
    """In which runs cache-dit takes calls of guidance branches for steps.

    Raises:
        PolicyError: it would in all.
    """
    said = configuration.has_separate_calls
    card = next(iter(target.maps.values())).card
    if card is None or configuration.engine != "cache-dit":
        return []
    if card.guidance.order == "batched":
        if said:
            raise PolicyError(
                f"{configuration.name}: enable_separate_cfg is true, but {target.model_class} makes one call for both "
                "branches of guidance, so that cache-dit counts steps wrongly; leave it out, cache-dit knows the model"
            )
        return []
    if said is not None:
        right = "guides" if said else "does not guide"
        return [
            f"enable_separate_cfg is {str(said).lower()}, which is right only if the run {right}: else cache-dit counts steps "
            "wrongly, and pabtune judges something better"
        ]
    if isinstance(card.guidance.when, ByArguments):
        return [
            f"if the run has a call for each guidance branch ({card.guidance.when.name}), cache-dit counts them as steps "
            "unless enable_separate_cfg is true; pabtune tells them apart"
        ]
    return []


def _dual_blocks(
    configuration: Configuration, target: Target, steps: int
) -> tuple[Policy | DynamicPolicy, tuple[str, ...]]:
    rule, name = configuration.rule, configuration.name
    assert isinstance(rule, DualBlocks)
    remarks = []
    if len(target.transformers) > 1:
        if rule.preset is not None:
            raise PolicyError(
                f"{name}: of a model with two transformers only a mask as a list can be judged, not a preset"
            )
        if rule.has_mask:
            remarks.append("each transformer counts the steps of the mask from its own first step on")
    elif rule.has_mask:
        rule = replace(rule, mask=mask_of(configuration, steps), preset=None)
    if rule.mask is not None and not rule.is_static:
        ones = [*rule.mask, False].index(False)
        if ones < rule.warm_up:
            remarks.append(
                f"max_warmup_steps {rule.warm_up} counts as {ones}, where the mask first lets a step be held"
            )
    if not rule.continues_text and (rule.back or has_several_lists(name, target.sites)):
        remarks.append(
            "where blocks pass text along, cache-dit holds its residual (enable_encoder_taylorseer is off), pabtune continues "
            "it with the video's"
        )
    if rule.is_fixed and len(target.transformers) == 1:
        return _dual_blocks_policy(name, rule, rule.mask or (), target.sites), tuple(remarks)
    front, back = front_and_back(name, rule.front, rule.back, target.sites)
    policy = DynamicPolicy(
        name=name,
        steps=steps,
        decider=lambda *_: DualBlockDecider(rule),
        point="front",
        front=front,
        back=back,
        history=1 + rule.order,
        is_shared=rule.takes_one_decision,
    )
    return policy, tuple(remarks)


def _dual_blocks_policy(name: str, rule: DualBlocks, mask: Sequence[bool], sites: Sequence[Site] | None) -> Policy:
    """The policy that holds the blocks between the front and the back in the zeros of a mask."""
    computed = tuple(step for step, computes in enumerate(mask) if computes)
    if len(computed) == len(mask):
        return Policy(name=name)
    factors = tuple(
        () if computes else taylor_factors([each for each in computed if each < step], step, rule.order, FIRST_CHANGE)
        for step, computes in enumerate(mask)
    )
    layers = {None: None} if sites is None else dual_block_layers(name, rule.front, rule.back, sites)
    is_series = any(factors)
    rules = tuple(
        Rule(
            kind="stack", transformer=transformer, compute=computed, layers=each,
            payload="scaled" if is_series else "hold", factors=factors if is_series else (),
        )
        for transformer, each in layers.items()
    )  # fmt: skip
    return Policy(name=name, rules=rules, made_for=MadeFor(steps=len(mask)))


def _held_steps(configuration: Configuration, target: Target | None, steps: int) -> tuple[Policy, tuple[str, ...]]:
    rule = configuration.rule
    assert isinstance(rule, HeldSteps)
    if target is not None and len(target.transformers) > 1:
        raise PolicyError(
            f"{configuration.name}: a cache of diffusers is for one transformer, but the model has "
            f"{len(target.transformers)}, each with steps of its own; this cannot be judged"
        )
    computed = tuple(step for step, computes in enumerate(rule.mask) if computes)
    if len(computed) == steps:
        return Policy(name=configuration.name), ("it holds no step: everything computes",)
    rules = (Rule(kind="stack", compute=computed),)
    return Policy(name=configuration.name, rules=rules, made_for=MadeFor(steps=steps)), ()


def _first_block(configuration: Configuration, target: Target, steps: int) -> tuple[DynamicPolicy, tuple[str, ...]]:
    rule = configuration.rule
    assert isinstance(rule, FirstBlock)
    threshold = rule.threshold
    policy = DynamicPolicy(
        name=configuration.name, steps=steps, decider=lambda *_: FirstBlockDecider(threshold), point="front", front=1
    )
    return policy, ()


def _attention_ranges(configuration: Configuration, target: Target, steps: int) -> tuple[Policy, tuple[str, ...]]:
    rule = configuration.rule
    assert isinstance(rule, AttentionRanges)
    present = {site.kind for site in target.sites}
    by_kind = {kind: each for each in rule.ranges for kind in _kinds_of(each.kind)}
    remarks = []
    if "temporal" in present and "spatial" in by_kind and not rule.is_told_apart:
        by_kind["temporal"] = by_kind["spatial"]
        remarks.append(
            "diffusers takes temporal attention for spatial, by the names of its blocks, and gives it that range; so does this"
        )
    rules = [
        Rule(kind=kind, range=each.range, noise_window=each.window, anchor="start")
        for kind, each in by_kind.items()
        if kind in present
    ]
    parts = (name for each in target.transformers.values() for name, _ in each.named_modules())
    if "full" in by_kind and not rule.is_told_apart and any("refiner_blocks" in name for name in parts):
        remarks.append("diffusers also broadcasts attention of the token refiner, which computes here")
    if not rules:
        raise PolicyError(
            f"{configuration.name}: {target.model_class} has attention of kinds {', '.join(sorted(present))}, and none that "
            "it names; diffusers would broadcast nothing"
        )
    card = next(iter(target.maps.values())).card
    if card is not None and card.guidance.order != "batched":
        remarks.append(
            "if the run guides, diffusers serves each guidance branch what the other one computed; pabtune keeps them apart, "
            "and so judges something better"
        )
    return Policy(name=configuration.name, rules=tuple(rules)), tuple(remarks)


def _kinds_of(kind: Kind) -> tuple[Kind, ...]:
    """What diffusers calls spatial attention is full attention too."""
    return ("spatial", "full") if kind == "spatial" else (kind,)


def _module_series(configuration: Configuration, target: Target, steps: int) -> tuple[Policy, tuple[str, ...]]:
    rule = configuration.rule
    assert isinstance(rule, ModuleSeries)
    return module_series_policy(configuration.name, rule, target, steps), ()


def _nothing(configuration: Configuration, target: Target, steps: int) -> tuple[Policy, tuple[str, ...]]:
    return Policy(name=configuration.name), ()


POLICIES: Mapping[type, Callable[[Configuration, Any, int], tuple[Policy | DynamicPolicy, tuple[str, ...]]]] = {
    DualBlocks: _dual_blocks,
    HeldSteps: _held_steps,
    FirstBlock: _first_block,
    AttentionRanges: _attention_ranges,
    ModuleSeries: _module_series,
    Nothing: _nothing,
}
"""By the rule."""
