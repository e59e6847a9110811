"""The check that a policy fits a model."""

from collections.abc import Mapping
from typing import Any

from pabtune.records.errors import PolicyError
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
