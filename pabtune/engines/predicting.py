"""Time that a policy and its export take, predicted from a profile of the model."""

from collections.abc import Iterator

from pabtune.engines.blocks import block_lists, held_layers
from pabtune.engines.plan import Plan
from pabtune.planning.costs.profiled import cost_of_profile
from pabtune.records.errors import PolicyError
from pabtune.records.interconnects import INTERCONNECTS
from pabtune.records.policies import MadeFor, Policy
from pabtune.records.profiles import Profile
from pabtune.records.rules import Rule


def engine_policy(plan: Plan, profile: Profile) -> Policy:
    """The policy that an engine runs: its masks, over the blocks that it holds.

    Args:
        plan: what the engine is to do.
        profile: of the model.

    Raises:
        PolicyError: the profile is of other steps, or does not tell which blocks the model has.
    """
    if profile.steps != plan.steps:
        raise PolicyError(
            f"profile {profile.name!r} is of {profile.steps} steps, but the export is for {plan.steps}; take a profile of as "
            "many, or leave it out"
        )
    return Policy(
        name=f"{plan.policy.name} in {plan.engine.name}",
        rules=tuple(_rules(plan, profile)),
        made_for=MadeFor(steps=plan.steps),
    )


def _rules(plan: Plan, profile: Profile) -> Iterator[Rule]:
    """A stack of each transformer that holds anything."""
    for mask in plan.masks:
        lists = block_lists(profile.made_for.model, profile.made_for.config.get(mask.transformer, {}))
        if lists is None:
            raise PolicyError(
                f"profile {profile.name!r} does not tell which blocks {mask.transformer} has, so that no time is predicted; "
                "leave it out"
            )
        layers = held_layers(plan.engine, lists)
        if mask.held and layers:
            computed = sorted({0, *(mask.start + step for step in mask.computed_steps)})
            name = mask.transformer if len(plan.masks) > 1 else None
            yield Rule(kind="stack", compute=tuple(computed), layers=layers, transformer=name)


def predicted_shares(plan: Plan, profile: Profile, content: str | None) -> tuple[float, float]:
    """Time in the transformer over that of the full run: under the policy, and in the engine.

    Args:
        plan: what the engine is to do.
        profile: of the model.
        content: the content class whose variant is meant.

    Raises:
        PolicyError: as `engine_policy`, or the policy is of another model.
    """
    link = next(iter(INTERCONNECTS.values()))  # of one GPU, which sends nothing
    pairs = ((plan.policy, content), (engine_policy(plan, profile), None))
    ours, theirs = (
        cost_of_profile(profile, policy, own, (1,), None, link).predicted_time_fraction for policy, own in pairs
    )
    return ours, theirs
