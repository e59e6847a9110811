"""What a policy costs on a published model at full size: counted on the meta device, without weights and without a run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from pabtune.models.workloads import Workload, build_workload
from pabtune.planning.costs.communication import NOTHING, Communication, gathered
from pabtune.planning.costs.latency import Rates, predicted_latency
from pabtune.planning.costs.memory import held_bytes
from pabtune.planning.masks import ComputeMask, resolve
from pabtune.planning.sharding import EXCHANGING, Way
from pabtune.records.links import Link
from pabtune.records.policies import Policy
from pabtune.runtime.compatibility import check_fits
from pabtune.runtime.flops import FlopCount, count_call_on_meta, count_on_meta
from pabtune.runtime.targets import Target

TERA, GIGA = 1e12, 1e9
BYTES = {"exact": 2.0, "host": 2.0, "int8": 1.0}
"""Of a number that is kept: hidden states are in 16 bits."""


ALONE = Way()
OUTPUT = "output"
TEXT_ENCODER = "text_encoder"
"""The part that every GPU computes by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """What a GPU reaches in a model, and the link between several."""

    rates: Rates
    link: Link


@dataclass(frozen=True, slots=True, kw_only=True)
class CountedWorkload:
    """A workload with its FLOPs.

    Attributes:
        workload: the video.
        target: its transformer.
        step: of one call of the transformer, both guidance branches.
        parts: of what runs once per video.
    """

    workload: Workload
    target: Target
    step: FlopCount
    parts: dict[str, FlopCount]


@cache
def count_workload(
    model: str, size: tuple[int, int, int], steps: int, text_tokens: int | None = None
) -> CountedWorkload:
    """Counts a published model's FLOPs; takes seconds.

    Args:
        model: its name.
        size: frames, height, width in pixels.
        steps: denoising steps.
        text_tokens: of the prompt; None = as many as the model takes.

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
    way: Way = ALONE,
    device: Device | None = None,
) -> dict[str, Any]:
    """FLOPs, communication, memory and calls of one video under a policy, as JSON.

    `total_tflops` counts every matrix product. `paper_tflops` counts what the paper's counter saw: in Open-Sora no scores of
    fused attention, which is all but temporal attention over fewer than 30 frames; in the other models everything.

    Args:
        counted: the model and the video.
        policy: what is broadcast.
        content: use the policy's variant for this content class.
        way: how GPUs share the video.
        device: rates of a GPU, and the link between them; None = latency is not told.

    Raises:
        PolicyError: the policy does not fit the model.
    """
    workload = counted.workload
    target = counted.target.under(policy, content)
    check_fits(policy, target, content)
    mask = resolve(policy, target.sites, workload.schedule, content)
    inside = mask.inside_blocks()
    sent = exchange_per_step(workload, inside, way)
    flops = _flops(counted, inside)
    attention = sum((each for kind, steps in sent.items() if kind != OUTPUT for each in steps), NOTHING)
    whole = attention + sum(sent.get(OUTPUT, []), NOTHING)
    latency = {} if device is None else {"latency": _latency(flops, workload.busiest_share(way), way, whole, device)}
    return {
        "gpus": way.gpus,
        "way": str(way),
        "flops": flops,
        "communication": {
            **_told(attention),
            "per_kind": {
                kind: _told(sum(steps, NOTHING))
                | {"per_step": [[each.messages, round(each.wire_bytes)] for each in steps]}
                for kind, steps in sent.items()
            },
        },
        "memory": _memory(workload, mask, policy),
        "calls": {
            kind: {"computed": count, "broadcast": inside.calls(computed=False)[kind]}
            for kind, count in inside.calls(computed=True).items()
        },
        **latency,
    }


def exchange_per_step(workload: Workload, mask: ComputeMask, way: Way) -> dict[str, list[Communication]]:
    """What each GPU exchanges in each step, by purpose: the attention along the split axis, and putting outputs together.

    Args:
        workload: the video.
        mask: without rows for blocks.
        way: how GPUs share it.
    """
    if way.gpus == 1:
        return {}
    shared = 1 / way.branches
    found: dict[str, list[Communication]] = {}
    length, output = (
        (workload.frames, workload.output_bytes) if way.axis == "frames" else (workload.tokens, workload.patch_bytes)
    )
    end = gathered(way.sequence, 1, length, round(output * shared / length))
    if way.branches > 1:
        end += gathered(way.branches, 1, way.branches, round(workload.output_bytes * shared))
    if way.sequence > 1:
        kind = EXCHANGING[way.axis]
        rows = [row for site, row in zip(mask.sites, mask.compute, strict=True) if site.kind == kind]
        video = workload.video(way.branches)
        found[kind] = [
            video.sent(way.axis, way.parallel, way.sequence, sum(int(row[step]) for row in rows))
            for step in range(mask.steps)
        ]
    return found | {OUTPUT: [end] * mask.steps}


def best_way(
    counted: CountedWorkload, policy: Policy, content: str | None, among: Sequence[Way], device: Device | None
) -> Way:
    """How GPUs best share a video: in the least time, or without a device, with the fewest bytes.

    Args:
        counted: the model and the video.
        policy: what is broadcast.
        content: the variant.
        among: the ways to choose from, at least one.
        device: rates and link; None = unknown.
    """

    def cost(way: Way) -> float:
        found = predict_cost(counted, policy, content, way, device)
        kinds = found["communication"]["per_kind"].values()
        wire = sum(each["wire_gb_per_gpu"] for each in kinds)
        return float(found["latency"]["seconds"] if device is not None else wire)

    return min(among, key=cost)


def _told(sent: Communication) -> dict[str, float]:
    return {
        "paper_gb_per_gpu": sent.paper_bytes / GIGA, "wire_gb_per_gpu": sent.wire_bytes / GIGA, "messages": sent.messages,
    }  # fmt: skip


def _latency(flops: Mapping[str, Any], share: float, way: Way, sent: Communication, device: Device) -> dict[str, float]:
    """Seconds, if all but the text's encoding is shared, and the share of linear scaling that they are."""
    per_kind = {kind: own * TERA for kind, own in flops["per_kind"].items()}
    transformer = device.rates.seconds(flops["transformer_tflops"] * TERA, per_kind)
    parts = {name: own * TERA / device.rates.overall for name, own in flops["parts"].items()}
    serial = parts.pop(TEXT_ENCODER, 0.0)
    decoding = sum(parts.values())
    seconds = predicted_latency(transformer, serial + decoding / way.gpus, share, sent, device.link)
    alone = transformer + serial + decoding
    return {"seconds": float(seconds), "efficiency": float(alone / seconds / way.gpus)}


def _flops(counted: CountedWorkload, mask: ComputeMask) -> dict[str, Any]:
    """In units of 10^12."""
    step, steps, skipped = counted.step, mask.steps, (~mask.compute).sum(axis=1)
    flops, scores = np.array(step.sites, dtype=float), np.array(step.site_scores, dtype=float)
    transformer = steps * (step.total + counted.workload.padding_flops) - float(skipped @ flops)
    unseen = 0.0 if counted.workload.sees_scores else steps * step.scores - float(skipped @ scores)
    parts = sum(part.total for part in counted.parts.values())
    per_kind: dict[str, float] = {}
    for index, site in enumerate(mask.sites):
        own = (steps - int(skipped[index])) * flops[index] / TERA
        per_kind[site.kind] = per_kind.get(site.kind, 0.0) + own
    return {
        "total_tflops": (transformer + parts) / TERA,
        "paper_tflops": (transformer - unseen + parts) / TERA,
        "transformer_tflops": transformer / TERA,
        "per_kind": per_kind,
        "parts": {name: part.total / TERA for name, part in counted.parts.items()},
    }


def _memory(workload: Workload, mask: ComputeMask, policy: Policy) -> dict[str, float]:
    """In GB: of all outputs that are ever kept, and of those kept at once; each is of the size of the hidden state."""
    each = workload.activation_bytes / 2 * BYTES[policy.store]
    if policy.store == "int8":
        each += workload.activation_bytes / 2 / workload.width * 4  # a scale per token
    kept = int((~mask.compute).any(axis=1).sum())
    peak = float(held_bytes(mask, [each] * len(mask.sites), policy.store).max())
    return {"stored_gb": kept * each / GIGA, "peak_stored_gb": peak / GIGA}
