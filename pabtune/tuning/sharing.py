"""How several processes should share a model's videos under a policy, as far as it can be told before a run."""

import numpy as np
from diffusers import DiffusionPipeline

from pabtune.planning.costs.communication import Parallel
from pabtune.planning.masks import resolve
from pabtune.planning.schedules import NoiseSchedule
from pabtune.planning.sharding import Axis, choose_axis
from pabtune.records.errors import PolicyError
from pabtune.records.policies import Policy
from pabtune.runtime.targets import Target


def axis_for(
    pipeline: DiffusionPipeline, policy: Policy, content: str | None, steps: int, parallel: Parallel, gpus: int
) -> Axis:
    """The axis along which a spatial-temporal model is best split under a policy.

    The run's noise levels are not known yet: the policy's own serve, where it tells them, else evenly falling ones.

    Args:
        pipeline: the model.
        policy: that it will run under.
        content: the content class whose rules are used.
        steps: of the run.
        parallel: how attention exchanges.
        gpus: that share the sequence.
    """
    target = Target.of(pipeline).under(policy, content)
    sigmas = policy.made_for.sigmas or tuple(np.linspace(1, 1 / steps, steps).tolist())
    try:
        mask = resolve(policy, target.sites, NoiseSchedule(steps=len(sigmas), sigmas=sigmas), content)
    except PolicyError:
        return "frames"  # the run will say what is wrong
    return choose_axis(mask.inside_blocks(), parallel, gpus)
