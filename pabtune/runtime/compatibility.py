"""The checks that a policy fits a model, and a run's number of steps."""

import warnings
from collections.abc import Mapping
from typing import Any

from pabtune.planning.schedules import NoiseSchedule, same_schedule
from pabtune.records.errors import PabtuneWarning, PolicyError
from pabtune.records.policies import Policy
from pabtune.runtime.targets import Target


def check_fits(policy: Policy, target: Target, content: str | None) -> None:
    """Checks that a policy was made for this model and that the model has the sites of its rules.

    Args:
        policy: the policy.
        target: the model.
        content: content class whose rules are checked; None = the policy's general rules.

    Raises:
        PolicyError: the policy does not fit; the message says why.
    """
    made_for = policy.made_for
    if made_for.model not in (None, target.model_class):
        raise PolicyError(
            f"policy {policy.name!r} was made for {made_for.model}, but the model is {target.model_class}; "
            "profile and search this model to get its own policy"
        )
    if made_for.fingerprint not in (None, target.fingerprint()):
        raise PolicyError(
            f"policy {policy.name!r} was made for another {made_for.model}: {differences(made_for.config, target.config())}; "
            "profile and search this model"
        )
    kinds = {site.kind for site in target.sites}
    for rule in policy.rules_for(content):
        if rule.kind not in kinds:
            raise PolicyError(
                f"policy {policy.name!r}: the model has no {rule.kind!r} sites; it has: {', '.join(sorted(kinds))}"
            )


FEWEST_STEPS = 9
"""Below this many steps a policy that was found at more is not carried over, unless asked: nothing sensible is left of it."""


FEWEST_PRESET_STEPS = 8
"""Below this many steps a preset says that it was not published for such runs."""


def check_steps(policy: Policy, schedule: NoiseSchedule, asked: int | None = None, *, any_steps: bool) -> None:
    """Checks the denoising steps of a run, and their noise levels, against those that a policy was found at.

    Args:
        policy: the policy; one that was not found by a search is for any number of steps.
        schedule: of the run.
        asked: `num_inference_steps` of the pipeline's call, of which some schedulers (PNDM, Heun) make more steps; None = not
            known.
        any_steps: carry the policy to few steps all the same.

    Raises:
        PolicyError: the run is of another number of steps than the policy is for, or of too few to carry it over.
    """
    steps = schedule.steps
    if policy.steps not in (None, steps if asked is None else asked):
        raise PolicyError(
            f"policy {policy.name!r} is a run of {policy.steps} denoising steps, but this run has {asked or steps}; call the "
            f"pipeline with num_inference_steps={policy.steps}"
        )
    found_at = policy.made_for.steps
    _warn_of_few_steps(policy, steps, any_steps=any_steps)
    if policy.made_for.fingerprint is None or found_at is None or not (policy.rules or policy.variants):
        return
    if same_schedule(policy.made_for, schedule):
        return
    if steps < FEWEST_STEPS <= (found_at or 0) and not any_steps:
        raise PolicyError(
            f"policy {policy.name!r} was found at {found_at} steps, and at {steps} nothing sensible is left of it; search "
            f"again with a profile of {steps} steps, or allow it with any_steps (on the command line --any-steps)"
        )
    there = f"{steps} by noise level" if steps != found_at else "other noise levels (another scheduler or shift)"
    warnings.warn(
        f"policy {policy.name!r} was found at {found_at} steps and is carried to {there}; what its file says of speed and "
        "quality was not measured there",
        PabtuneWarning,
        stacklevel=2,
    )


def _warn_of_few_steps(policy: Policy, steps: int, *, any_steps: bool) -> None:
    """Says that a preset meets a run of fewer steps than any it was published for."""
    is_preset = policy.made_for.fingerprint is None and any(rule.noise_window is not None for rule in policy.rules)
    if is_preset and steps < FEWEST_PRESET_STEPS and not any_steps:
        warnings.warn(
            f"policy {policy.name!r} broadcasts between noise levels that were published for runs of 30 steps and more; what "
            f"it costs in quality at {steps} steps was never measured",
            PabtuneWarning,
            stacklevel=3,
        )


def differences(theirs: Mapping[str, Mapping[str, Any]], ours: Mapping[str, Mapping[str, Any]]) -> str:
    """Description of the differences between the configurations of two models.

    Args:
        theirs: configuration of each transformer that the policy was made for.
        ours: configuration of each transformer of the model at hand.
    """
    if not theirs:
        return "its configuration or sites differ (the policy does not tell more)"
    if set(theirs) != set(ours):
        return f"it has {', '.join(theirs)}, this model {', '.join(ours)}"
    differing = [
        f"{name}.{key} is {theirs[name].get(key)} there and {ours[name].get(key)} here"
        for name in ours
        for key in sorted({*theirs[name], *ours[name]})
        if theirs[name].get(key) != ours[name].get(key)
    ]
    return (
        ", ".join(differing[:5]) + (f" and {len(differing) - 5} more" if len(differing) > 5 else "")
        or "its sites differ"
    )
