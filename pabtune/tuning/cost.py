"""Cost of a policy on a published model at full size, counted on the meta device without weights or a run."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from pabtune.models.workloads import Workload, build_workload
from pabtune.planning.costs.communication import NOTHING, Communication, exchanged, gathered
from pabtune.planning.costs.compute import shares_saved
from pabtune.planning.costs.latency import Rates, measured_rates, predicted_latency
from pabtune.planning.costs.memory import held_bytes
from pabtune.planning.costs.profiled import check_steps_of
from pabtune.planning.costs.scaling import GIGA, Latency, Scaling, ScalingRow, communication_document, layout_choices
from pabtune.planning.layouts import exchanging_kind
from pabtune.planning.masks import ComputeMask, resolve
from pabtune.records.errors import ProfileError
from pabtune.records.interconnects import Interconnect
from pabtune.records.layouts import ONE_GPU, ParallelLayout, SequenceParallel
from pabtune.records.policies import Policy, Store
from pabtune.records.profiles import Profile
from pabtune.records.sites import WHOLE_CALLS, Site
from pabtune.runtime.compatibility import check_fits
from pabtune.runtime.flops import FlopCount, count_call_on_meta, count_on_meta
from pabtune.runtime.targets import Target

TERA = 1e12
BYTES = {"exact": 2.0, "host": 2.0, "int8": 1.0}
"""Bytes per stored number; hidden states are in 16 bits."""

GUIDANCE_BRANCHES = 2
"""Number of guidance branches of every model that has a workload."""

OUTPUT = "output"
TEXT_ENCODER = "text_encoder"
"""The part that every GPU computes in full."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """Rates of a GPU for a model, and the interconnect between GPUs."""

    rates: Rates
    interconnect: Interconnect


@dataclass(frozen=True, slots=True, kw_only=True)
class CountedWorkload:
    """A workload with its FLOPs.

    Attributes:
        workload: the video.
        target: its transformer.
        step: FLOPs of one call of the transformer, both guidance branches.
        parts: FLOPs of the parts that run once per video.
    """

    workload: Workload
    target: Target
    step: FlopCount
    parts: dict[str, FlopCount]


@dataclass(frozen=True, slots=True, kw_only=True)
class Flops:
    """FLOPs of one video, in units of 10^12.

    Attributes:
        total_tflops: FLOPs of all matrix products.
        paper_tflops: FLOPs as the paper's counter counts them: for Open-Sora without the scores of fused attention, which
            is all but temporal attention over fewer than 30 frames; for the other models everything.
        transformer_tflops: FLOPs in the transformer.
        per_kind: FLOPs in the sites of each kind.
        parts: FLOPs of the parts that run once per video.
    """

    total_tflops: float
    paper_tflops: float
    transformer_tflops: float
    per_kind: Mapping[str, float]
    parts: Mapping[str, float]

    def to_document(self) -> dict[str, Any]:
        """The FLOPs as JSON."""
        return {
            "total_tflops": self.total_tflops,
            "paper_tflops": self.paper_tflops,
            "transformer_tflops": self.transformer_tflops,
            "per_kind": dict(self.per_kind),
            "parts": dict(self.parts),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Cost of one video of a published model under a policy.

    Attributes:
        layout: layout of the GPUs.
        flops: FLOPs of all GPUs combined.
        sent: communication of each GPU in each step, by purpose: a kind of attention, or `output`.
        stored_bytes: bytes of all outputs that are ever kept, on all GPUs combined.
        peak_stored_bytes: bytes of the outputs kept at the same time, at most.
        computed_calls: calls of sites that compute, by kind.
        broadcast_calls: calls of sites that broadcast, by kind.
        latency: predicted time; None if no rates are known.
    """

    layout: ParallelLayout
    flops: Flops
    sent: Mapping[str, Sequence[Communication]]
    stored_bytes: float
    peak_stored_bytes: float
    computed_calls: Mapping[str, int]
    broadcast_calls: Mapping[str, int]
    latency: Latency | None = None

    @property
    def attention(self) -> Communication:
        """Communication of each GPU for attention, over the run."""
        return _total(each for purpose, steps in self.sent.items() if purpose != OUTPUT for each in steps)

    @property
    def everything(self) -> Communication:
        """Communication of each GPU over the run: attention, and gathering outputs."""
        return _total(each for steps in self.sent.values() for each in steps)

    def row(self) -> ScalingRow:
        """The cost as a row of a table over numbers of GPUs."""
        return ScalingRow(layout=self.layout, attention=self.attention, latency=self.latency)

    def to_document(self) -> dict[str, Any]:
        """The cost as JSON."""
        per_kind = {
            purpose: communication_document(_total(steps))
            | {"per_step": [[each.messages, round(each.wire_bytes)] for each in steps]}
            for purpose, steps in self.sent.items()
        }
        return {
            "gpus": self.layout.gpus,
            "layout": self.layout.to_document(),
            "description": str(self.layout),
            "flops": self.flops.to_document(),
            "communication": {**communication_document(self.attention), "per_kind": per_kind},
            "memory": {"stored_gb": self.stored_bytes / GIGA, "peak_stored_gb": self.peak_stored_bytes / GIGA},
            "calls": {
                kind: {"computed": count, "broadcast": self.broadcast_calls[kind]}
                for kind, count in self.computed_calls.items()
            },
            **({} if self.latency is None else {"latency": self.latency.to_document()}),
        }


@cache
def count_workload(
    model: str, size: tuple[int, int, int], steps: int, text_tokens: int | None = None
) -> CountedWorkload:
    """Counts a published model's FLOPs; takes seconds.

    Args:
        model: its name.
        size: frames, height, width in pixels.
        steps: denoising steps.
        text_tokens: length of the prompt; None = the longest that the model takes.

    Raises:
        ModelError: no workload is known for the model.
    """
    workload = build_workload(model, size, steps, text_tokens)
    target, step = count_on_meta(workload.transformer, workload.arguments)
    parts = {name: count_call_on_meta(call) for name, call in workload.parts.items()}
    return CountedWorkload(workload=workload, target=target, step=step, parts=parts)


def predict_cost(
    counted: CountedWorkload,
    policy: Policy,
    content: str | None = None,
    layout: ParallelLayout = ONE_GPU,
    device: Device | None = None,
) -> Cost:
    """Predicts the cost of one video under a policy.

    Args:
        counted: the model and the video.
        policy: the policy.
        content: use the policy's variant for this content class.
        layout: layout of the GPUs, with its axis.
        device: rates and interconnect; None = latency is not predicted.

    Raises:
        PolicyError: the policy does not fit the model, or the layout leaves its axis open.
    """
    workload = counted.workload
    target = counted.target.under(policy, content)
    check_fits(policy, target, content)
    check_steps_of(policy, workload.schedule.steps)
    mask = resolve(policy, target.sites, workload.schedule, content)
    inside = mask.inside_blocks()
    sent = exchange_per_step(workload, inside, layout)
    flops = _flops(counted, inside)
    sizes, plain = ([_output_bytes(workload, site, store) for site in mask.sites] for store in (policy.store, "exact"))
    communication = _total(each for steps in sent.values() for each in steps)
    return Cost(
        layout=layout,
        flops=flops,
        sent=sent,
        stored_bytes=float(mask.broadcasts.any(axis=1) @ np.array(sizes)),
        peak_stored_bytes=float(held_bytes(mask, sizes, policy.store, plain_bytes=plain).max()),
        computed_calls=inside.calls(computed=True),
        broadcast_calls=inside.calls(computed=False),
        latency=None if device is None else _latency(flops, workload, layout, communication, device),
    )


def _output_bytes(workload: Workload, site: Site, store: Store) -> float:
    """Bytes of one output of a site as stored, for both branches; of a guidance difference, for one."""
    if site.kind in WHOLE_CALLS:
        narrowed = workload.output_bytes / (4 if store == "int8" else 1)  # the network returns 32 bits
        return narrowed / (GUIDANCE_BRANCHES if site.kind == "guidance" else 1)
    each = workload.activation_bytes / 2 * BYTES[store]
    return each + (workload.activation_bytes / 2 / workload.width * 4 if store == "int8" else 0)  # a scale per token


def exchange_per_step(workload: Workload, mask: ComputeMask, layout: ParallelLayout) -> dict[str, list[Communication]]:
    """Communication of each GPU in each step, by purpose: attention along the split axis, and gathering outputs.

    Args:
        workload: the video.
        mask: the compute mask, without rows for blocks.
        layout: layout of the GPUs.
    """
    if layout.gpus == 1:
        return {}
    shared = 1 / layout.branches
    sent: dict[str, list[Communication]] = {}
    length, output_bytes = (
        (workload.frames, workload.output_bytes) if layout.axis == "frames" else (workload.tokens, workload.patch_bytes)
    )
    end = gathered(layout.sequence, 1, length, round(output_bytes * shared / length))
    if layout.branches > 1:
        end += gathered(layout.branches, 1, layout.branches, round(workload.output_bytes * shared))
    half = gathered(layout.sequence, 1, length, round(output_bytes / GUIDANCE_BRANCHES / length))
    skipped, halved = mask.calls_skipped, mask.halved
    if layout.sequence > 1:
        kind = exchanging_kind(layout)
        rows = [index for index, site in enumerate(mask.sites) if site.kind == kind]
        shapes = [
            workload.video(parts).attention(layout.axis or "frames") for parts in (layout.branches, GUIDANCE_BRANCHES)
        ]
        calls, is_half = (mask.compute & ~skipped)[rows].sum(axis=0), halved[rows].any(axis=0)
        sent[kind] = [
            exchanged(layout.exchange, layout.sequence, int(calls[step]), shapes[int(is_half[step])])
            for step in range(mask.steps)
        ]
    ends = [NOTHING if skipped[:, step].any() else half if halved[:, step].any() else end for step in range(mask.steps)]
    return sent | {OUTPUT: ends}


def best_cost(
    counted: CountedWorkload,
    policy: Policy,
    content: str | None,
    layouts: Iterable[ParallelLayout],
    device: Device | None,
) -> Cost:
    """The cost in the fastest layout, or without a device, in the one that sends the fewest bytes.

    Args:
        counted: the model and the video.
        policy: the policy.
        content: use the policy's variant for this content class.
        layouts: the layouts to choose from, at least one.
        device: rates and interconnect; None if unknown.
    """
    costs = [predict_cost(counted, policy, content, layout, device) for layout in layouts]
    return min(costs, key=lambda cost: cost.latency.seconds if cost.latency else cost.everything.wire_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCost:
    """Costs of one video on several numbers of GPUs.

    Attributes:
        costs: one for each number that the video is long enough for, in its best layout.
        full: the cost without a policy, in the layout of the first of `costs`.
        scaling: the costs as a table.
    """

    costs: tuple[Cost, ...]
    full: Cost
    scaling: Scaling


def cost_of_model(
    counted: CountedWorkload,
    policy: Policy,
    full: Policy,
    content: str | None,
    gpus: Sequence[int],
    method: SequenceParallel | None,
    device: Device | None,
) -> ModelCost:
    """Costs of a policy on a published model for several numbers of GPUs, each in its best layout.

    Args:
        counted: the model and the video.
        policy: the policy.
        full: the policy that broadcasts nothing.
        content: use the policy's variant for this content class.
        gpus: numbers of GPUs that share the video.
        method: method of sequence parallelism; None = the cheapest.
        device: rates and interconnect; None = latency is not predicted.

    Raises:
        PolicyError: the policy does not fit the model, or the video is too short for all of the numbers.
    """
    workload = counted.workload
    # A guidance difference needs both branches on one GPU.
    branches = 1 if any(rule.kind == "guidance" for rule in policy.rules_for(content)) else GUIDANCE_BRANCHES
    choices = layout_choices(gpus, method, workload.axes, branches, workload.frames)
    costs = tuple(best_cost(counted, policy, content, options, device) for options in choices.options)
    return ModelCost(
        costs=costs,
        full=predict_cost(counted, full, None, costs[0].layout),
        scaling=Scaling(rows=tuple(cost.row() for cost in costs), too_many_gpus=choices.too_many_gpus),
    )


def rates_of(profile: Profile, counted: CountedWorkload) -> Rates:
    """Rates that a profile measured, for any video of its model.

    Raises:
        ProfileError: the profile is of another model.
    """
    if profile.made_for.fingerprint != counted.target.fingerprint():
        raise ProfileError(
            f"profile {profile.name!r} is of another model ({profile.made_for.model}, or another configuration)"
        )
    arrays = profile.arrays
    return measured_rates(
        profile.sites, profile.site_flops, profile.total_flops, arrays["seconds"], arrays["step_seconds"]
    )


def _total(each: Iterable[Communication]) -> Communication:
    return sum(each, NOTHING)


def _latency(flops: Flops, workload: Workload, layout: ParallelLayout, sent: Communication, device: Device) -> Latency:
    """Latency of a run that divides everything but text encoding among the GPUs."""
    per_kind = {kind: count * TERA for kind, count in flops.per_kind.items()}
    transformer = device.rates.seconds(flops.transformer_tflops * TERA, per_kind)
    parts = {name: count * TERA / device.rates.overall for name, count in flops.parts.items()}
    serial = parts.pop(TEXT_ENCODER, 0.0)
    decoding = sum(parts.values())
    share = workload.busiest_share(layout)
    seconds = predicted_latency(transformer, serial + decoding / layout.gpus, share, sent, device.interconnect)
    alone = transformer + serial + decoding
    return Latency(seconds=float(seconds), efficiency=float(alone / seconds / layout.gpus))


def _flops(counted: CountedWorkload, mask: ComputeMask) -> Flops:
    step, steps = counted.step, mask.steps
    inner, whole = shares_saved(mask, GUIDANCE_BRANCHES)
    skipped, whole_steps = inner.sum(axis=1), steps - float(whole.sum())
    flops, scores = np.array(step.sites, dtype=float), np.array(step.site_scores, dtype=float)
    transformer = whole_steps * (step.total + counted.workload.padding_flops) - float(skipped @ flops)
    unseen = 0.0 if counted.workload.sees_scores else whole_steps * step.scores - float(skipped @ scores)
    parts = sum(part.total for part in counted.parts.values())
    per_kind: dict[str, float] = {}
    for index, site in enumerate(site for site in mask.sites if site.kind not in WHOLE_CALLS):
        computed = (whole_steps - float(skipped[index])) * flops[index] / TERA
        per_kind[site.kind] = per_kind.get(site.kind, 0.0) + computed
    return Flops(
        total_tflops=(transformer + parts) / TERA,
        paper_tflops=(transformer - unseen + parts) / TERA,
        transformer_tflops=transformer / TERA,
        per_kind=per_kind,
        parts={name: part.total / TERA for name, part in counted.parts.items()},
    )
