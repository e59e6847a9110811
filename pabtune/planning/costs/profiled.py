"""Cost of a policy for the model, size and schedule of a profile."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pabtune.planning.costs.compute import compute_fraction, predicted_seconds
from pabtune.planning.costs.measured import Measured, parallel_seconds, sent_for
from pabtune.planning.costs.memory import held_bytes
from pabtune.planning.costs.scaling import Latency, LayoutChoices, Scaling, ScalingRow, layout_choices
from pabtune.planning.masks import ComputeMask, resolve
from pabtune.planning.schedules import NoiseSchedule
from pabtune.planning.units import units_of
from pabtune.records.errors import PolicyError
from pabtune.records.interconnects import Interconnect
from pabtune.records.layouts import ONE_GPU, SequenceParallel
from pabtune.records.policies import Policy, Store
from pabtune.records.profiles import Profile
from pabtune.records.sites import Site


@dataclass(frozen=True, slots=True, kw_only=True)
class Peak:
    """Peak of the bytes that a run holds for later steps, per prompt, and its step."""

    stored_bytes: int
    step: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfiledCost:
    """Cost of a policy, predicted from a profile.

    Attributes:
        policy: name of the policy.
        compute_fraction: FLOPs computed over FLOPs of the full run.
        predicted_time_fraction: time in the transformer over that of the full run, from the profile's site times.
        computed_calls: calls of sites that compute, by kind.
        broadcast_calls: calls of sites that broadcast, by kind.
        peak: peak memory of stored outputs.
        scaling: time on several GPUs; None for one GPU.
    """

    policy: str
    compute_fraction: float
    predicted_time_fraction: float
    computed_calls: Mapping[str, int]
    broadcast_calls: Mapping[str, int]
    peak: Peak
    scaling: Scaling | None = None

    def to_document(self) -> dict[str, Any]:
        """The cost as JSON."""
        return {
            "policy": self.policy,
            "compute_fraction": self.compute_fraction,
            "predicted_time_fraction": self.predicted_time_fraction,
            "calls": {"computed": dict(self.computed_calls), "broadcast": dict(self.broadcast_calls)},
            "memory": {"peak_stored_bytes": self.peak.stored_bytes, "at_step": self.peak.step},
            **({} if self.scaling is None else self.scaling.to_document()),
        }


def cost_of_profile(
    profile: Profile,
    policy: Policy,
    content: str | None,
    gpus: Sequence[int],
    method: SequenceParallel | None,
    interconnect: Interconnect,
) -> ProfiledCost:
    """Cost of a policy for a profile's model, size and schedule.

    Args:
        profile: profile of the model.
        policy: the policy.
        content: use the policy's variant for this content class.
        gpus: numbers of GPUs that share a video.
        method: method of sequence parallelism; None = the fastest.
        interconnect: interconnect between the GPUs.

    Raises:
        PolicyError: the policy was made for another model, or has a rule for guidance where the profile has none, or the
            time on several GPUs cannot be predicted.
    """
    if policy.made_for.fingerprint not in (None, profile.made_for.fingerprint):
        raise PolicyError(f"policy {policy.name!r} was made for another model than that of profile {profile.name!r}")
    check_steps_of(policy, profile.steps)
    branches, has_guidance = profile.call.samples, any(rule.kind == "guidance" for rule in policy.rules_for(content))
    if has_guidance and branches < 2:
        raise PolicyError(
            f"policy {policy.name!r} has a rule for guidance, but profile {profile.name!r} was made without guidance; profile "
            "with guidance on, or leave the rule out"
        )
    schedule = NoiseSchedule(steps=profile.steps, sigmas=profile.made_for.sigmas)
    units = units_of(policy, profile.sites, content)
    seconds, step_seconds = profile.arrays["seconds"], profile.arrays["step_seconds"]
    mask = resolve(policy, [*profile.sites, *units], schedule, content).where_called(seconds > 0)
    inside = mask.inside_blocks()
    scaling = None
    if tuple(gpus) != (1,):
        measured = Measured.of(profile, max(gpus))
        shared = 1 if has_guidance else measured.branches  # a guidance difference needs both branches on one GPU
        choices = layout_choices(gpus, method, measured.axes, shared, measured.frames)
        scaling = _scaling(inside, measured, choices, interconnect)
    return ProfiledCost(
        policy=policy.name,
        compute_fraction=compute_fraction(inside, profile.site_flops, profile.total_flops, branches),
        predicted_time_fraction=predicted_seconds(inside, seconds, step_seconds, branches) / float(step_seconds.sum()),
        computed_calls=inside.calls(computed=True),
        broadcast_calls=inside.calls(computed=False),
        peak=_peak(profile, policy, mask),
        scaling=scaling,
    )


def check_steps_of(policy: Policy, steps: int) -> None:
    """Refuses a policy that is a run of another number of denoising steps: its cost is their ratio.

    Args:
        policy: the policy.
        steps: denoising steps of the run that the cost is asked for.

    Raises:
        PolicyError: tells the ratio.
    """
    if policy.steps not in (None, steps):
        raise PolicyError(
            f"policy {policy.name!r} is a run of {policy.steps} steps, each computed in full: "
            f"{policy.steps / steps:.1%} of a run of {steps}"
        )


def _peak(profile: Profile, policy: Policy, mask: ComputeMask) -> Peak:
    sizes = bytes_of_sites(profile, mask.sites, policy.store)
    plain = bytes_of_sites(profile, mask.sites, "exact")
    held = held_bytes(mask, sizes, policy.store, profile.call.per_step, plain)
    return Peak(stored_bytes=int(held.max()), step=int(held.argmax()))


def bytes_of_sites(profile: Profile, sites: Sequence[Site], store: Store) -> list[float]:
    """Bytes of one output of each site as stored, per prompt, for all branches.

    Args:
        profile: profile of the model.
        sites: sites of the profile, and whole calls, blocks and stacks behind them.
        store: how outputs are kept.
    """
    sizes: list[float] = [*profile.bytes_kept(store)]
    for site in sites[len(sizes) :]:
        if site.kind == "transformer":
            sizes.append(_bytes_of_call(profile, store))
        elif site.kind == "guidance":  # as large as the output of one branch
            sizes.append(_bytes_of_call(profile, store) / profile.call.samples)
        else:  # the residual of a block or stack is as large as an output of its sites
            sizes.append(max(_sizes_in(site, profile.sites, profile.bytes_kept(store)), default=0))
    return sizes


def _bytes_of_call(profile: Profile, store: Store) -> float:
    """Bytes of the output of whole calls; where a profile does not tell, it is taken to be as large as their input."""
    size = profile.call.output_int8_bytes if store == "int8" else profile.call.output_bytes
    if size is not None:
        return size
    dtype = str(profile.made_for.settings.get("dtype", "float32"))
    width = 1 if store == "int8" else 4 if dtype == "float32" else 2
    return float(profile.call.samples * math.prod(profile.call.shape) * width)


def _sizes_in(unit: Site, sites: Sequence[Site], sizes: Sequence[float]) -> list[float]:
    return [
        size
        for site, size in zip(sites, sizes, strict=True)
        if site.transformer == unit.transformer and site.block == unit.path
    ]


def _scaling(mask: ComputeMask, measured: Measured, choices: LayoutChoices, interconnect: Interconnect) -> Scaling:
    """Seconds in the transformer on each number of GPUs, in the fastest layout."""
    alone = parallel_seconds(mask, measured, ONE_GPU, interconnect)
    rows = []
    for options in choices.options:
        times = {layout: parallel_seconds(mask, measured, layout, interconnect) for layout in options}
        layout = min(times, key=times.__getitem__)
        latency = Latency(seconds=times[layout], efficiency=alone / times[layout] / layout.gpus)
        rows.append(ScalingRow(layout=layout, attention=sent_for(mask, measured, layout), latency=latency))
    return Scaling(rows=tuple(rows), too_many_gpus=choices.too_many_gpus)
