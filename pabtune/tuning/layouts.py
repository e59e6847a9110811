"""The layout that suits a policy, as far as it can be told before a run."""

import numpy as np
from diffusers import DiffusionPipeline

from pabtune.parallel.splitting import axes_of
from pabtune.planning.layouts import choose_axis
from pabtune.planning.masks import resolve
from pabtune.planning.schedules import NoiseSchedule
from pabtune.records.errors import PolicyError
from pabtune.records.layouts import ParallelLayout
from pabtune.records.policies import Policy
from pabtune.runtime.targets import Target


def layout_for(
    pipeline: DiffusionPipeline, layout: ParallelLayout, policy: Policy, content: str | None, steps: int
) -> ParallelLayout:
    """The layout with an axis: where it leaves that open, the one along which the policy sends least.

    The run's noise levels are not known yet: the policy's own serve, where it has them, else evenly falling ones.

    Args:
        pipeline: the model.
        layout: how processes share a video.
        policy: the policy of the run.
        content: the content class whose rules are used.
        steps: number of denoising steps.
    """
    if layout.axis is not None or len(axes_of(pipeline)) == 1:
        return layout
    target = Target.of(pipeline).under(policy, content)
    sigmas = policy.made_for.sigmas or tuple(np.linspace(1, 1 / steps, steps).tolist())
    try:
        mask = resolve(policy, target.sites, NoiseSchedule(steps=len(sigmas), sigmas=sigmas), content)
    except PolicyError:
        return layout  # the run will say what is wrong
    return layout.along(choose_axis(mask.inside_blocks(), layout.exchange, layout.sequence))
