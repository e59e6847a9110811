"""diffusers' TaylorSeer of the modules that its user names, as a policy."""

import re

from pabtune.engines.reading.configuration import ModuleSeries
from pabtune.methods.taylorseer import taylor_policy
from pabtune.records.errors import PolicyError
from pabtune.records.policies import Policy
from pabtune.runtime.targets import Target


def module_series_policy(name: str, rule: ModuleSeries, target: Target, steps: int) -> Policy:
    """The policy.

    Args:
        name: of the file.
        rule: interval, order and patterns of paths.
        target: the model.
        steps: denoising steps of the run.

    Raises:
        PolicyError: the patterns match nothing, or not exactly some kinds of the model's sites; or step 0 does not compute.
    """
    computed = [
        step
        for step in range(steps)
        if step < rule.before
        or (step - rule.before - 1) % rule.interval == 0
        or (rule.after is not None and step >= rule.after)
    ]
    if 0 not in computed:
        raise PolicyError(
            f"{name}: step 0 does not compute, and diffusers stops there; set disable_cache_before_step to 1"
        )
    matched = {
        (transformer, path)
        for transformer, module in target.transformers.items()
        for path, _ in module.named_modules()
        if any(re.fullmatch(pattern, path) for pattern in rule.patterns)
    }
    if not matched:
        raise PolicyError(
            f"{name}: its patterns match no module of {target.model_class}, so that diffusers keeps nothing and says nothing; "
            "name the modules in cache_identifiers"
        )
    kinds = list(dict.fromkeys(site.kind for site in target.sites if (site.transformer, site.path) in matched))
    covered = {(site.transformer, site.path) for site in target.sites if site.kind in kinds}
    if covered != matched:
        ((_, path), *_) = sorted(covered ^ matched)
        raise PolicyError(
            f"{name}: cache_identifiers must match all attention or MLPs of a kind, which pabtune knows by the model's card, "
            f"and nothing else, but {path} makes the difference; this cannot be judged"
        )
    return taylor_policy(name, kinds, computed, steps, rule.order)
