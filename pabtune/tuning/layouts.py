"""Choosing the split axis that suits a policy, before a run."""

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
    """The layout with its axis: the one along which the policy sends the fewest bytes, where the layout leaves it open.

    The run's noise levels are not known yet: those of the policy stand in for them, or else evenly decreasing ones.

    Args:
        pipeline: the pipeline.
        layout: layout of the processes.
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
        return layout  # the run itself reports the error
    return layout.along(choose_axis(mask.inside_blocks(), layout.exchange, layout.sequence))
