"""FLOPs of every site and of a denoising step, counted on the running model by torch's own counter."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from pabtune.libraries.torch_internals import CPU_FLASH_ATTENTION
from pabtune.records.errors import ModelError
from pabtune.runtime.listeners import Forward, Measurement
from pabtune.runtime.locator import CallPosition
from pabtune.runtime.recorder import record
from pabtune.runtime.targets import Target


@dataclass(frozen=True, slots=True, kw_only=True)
class FlopCount:
    """FLOPs (2 per multiply-add; matrix products, convolutions, attention scores) of one denoising step.

    Attributes:
        sites: FLOPs per site, feeders included, summed over branches.
        total: FLOPs of the transformers, summed over branches.
        site_scores: the part of `sites` that fused attention kernels spend on scores; known on the meta device only.
        scores: the part of `total` that fused attention kernels spend on scores.
        calls: FLOPs of each transformer call that was counted.
    """

    sites: tuple[int, ...]
    total: int
    site_scores: tuple[int, ...] = ()
    scores: int = 0
    calls: "tuple[CallFlops, ...]" = ()


def count_flops(target: Target, run: Callable[[], object]) -> FlopCount:
    """Counts the FLOPs of a denoising step for the full batch; with two transformers, the mean over all steps.

    Args:
        target: the model.
        run: makes the pipeline's call.
    """

    def attention_on_cpu(q: tuple[int, ...], k: tuple[int, ...], v: tuple[int, ...], *_: Any, **__: Any) -> int:
        return sdpa_flop_count(q, k, v)

    # torch counts its fused attention on CUDA, but not the one for the CPU.
    missing = {CPU_FLASH_ATTENTION: attention_on_cpu}
    with FlopCounterMode(display=False, custom_mapping=missing) as mode:
        counter = FlopListener(mode, len(target.sites))
        record(target, counter, run)
    return counter.count


class MetaCounter(FlopCounterMode):
    """FLOP counter for the meta device that counts fused attention separately, as `scores`, for any kernel."""

    def __init__(self) -> None:
        super().__init__(display=False)
        self.scores = 0
        self._functions = _FusedAttention(self)

    def get_total_flops(self) -> int:
        """All FLOPs so far, scores included."""
        return int(super().get_total_flops()) + self.scores

    def __enter__(self) -> "MetaCounter":
        super().__enter__()
        self._functions.__enter__()
        return self

    def __exit__(self, *args: Any) -> None:
        self._functions.__exit__(*args)
        super().__exit__(*args)


class _FusedAttention(TorchFunctionMode):
    """Replaces fused attention, which would otherwise be decomposed into matrix products."""

    def __init__(self, counter: MetaCounter) -> None:
        super().__init__()
        self._counter = counter

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is not torch.nn.functional.scaled_dot_product_attention:
            return function(*args, **(kwargs or {}))
        q, k, v = (*args, *(kwargs or {}).values())[:3]
        self._counter.scores += sdpa_flop_count(q.shape, k.shape, v.shape)
        return q.new_empty(*q.shape[:-1], v.shape[-1])


def count_on_meta(transformer: nn.Module, arguments: Mapping[str, Any]) -> tuple[Target, FlopCount]:
    """Counts the FLOPs of one call of a transformer on the meta device; returns its target too.

    Args:
        transformer: the network, on the meta device.
        arguments: arguments of the call, on the meta device.
    """
    target = Target.of(transformer)
    with MetaCounter() as counter, torch.no_grad():
        listener = FlopListener(counter, len(target.sites))

        def call() -> None:
            with transformer.cache_context("cond+uncond", step_index=0, num_inference_steps=1):  # type: ignore[operator]
                transformer(**arguments)

        record(target, listener, call)
    return target, listener.count


def count_call_on_meta(call: Callable[[], object]) -> FlopCount:
    """Counts the FLOPs of any computation on the meta device, without sites."""
    with MetaCounter() as counter, torch.no_grad():
        call()
    return FlopCount(sites=(), total=counter.get_total_flops(), scores=counter.scores)


@dataclass(frozen=True, slots=True, kw_only=True)
class CallFlops:
    """FLOPs of one transformer call.

    Attributes:
        total: FLOPs of the call.
        sites: FLOPs of each site of the target, feeders included.
    """

    total: int
    sites: tuple[int, ...]


KnownCalls = dict[int, Sequence[CallFlops]]
"""FLOPs of each call of a full run, by its number of denoising steps."""


class FlopListener(Measurement):
    """Measurement that attributes the FLOPs of a `FlopCounterMode` to calls and sites.

    Args:
        mode: the counter, active while the model runs.
        sites: number of sites.

    Attributes:
        calls: FLOPs of each transformer call, in call order.
    """

    def __init__(self, mode: FlopCounterMode, sites: int) -> None:
        self.calls: list[CallFlops] = []
        self._mode = mode
        self._sites = [0] * sites
        self._site_scores = [0] * sites
        self._call_sites = [0] * sites
        self._totals: Counter[str] = Counter()
        self._steps: dict[str, list[int]] = {}
        self._began = 0
        self._is_first_step = False

    @property
    def count(self) -> FlopCount:
        """FLOPs of the first step in which each transformer was called; the total is the mean over all steps."""
        total = sum(self._totals[name] * len(steps) for name, steps in self._steps.items())
        count = len({step for steps in self._steps.values() for step in steps})
        return FlopCount(
            sites=tuple(self._sites),
            total=round(total / max(count, 1)),
            site_scores=tuple(self._site_scores),
            scores=self._scores,
            calls=tuple(self.calls),
        )

    @property
    def _scores(self) -> int:
        """FLOPs of fused attention so far; 0 without the counter for the meta device."""
        return self._mode.scores if isinstance(self._mode, MetaCounter) else 0

    def begin(self, position: CallPosition, sample: Tensor) -> None:
        """Notes the step (see `Session`)."""
        super().begin(position, sample)
        steps = self._steps.setdefault(position.transformer, [])
        if position.step not in steps:
            steps.append(position.step)
        self._is_first_step = position.step == steps[0]
        self._began = self._mode.get_total_flops()
        self._call_sites = [0] * len(self._sites)

    def end(self, position: CallPosition, output: Any) -> None:
        """Adds the call to the total (see `Session`)."""
        super().end(position, output)
        total = self._mode.get_total_flops() - self._began
        self.calls.append(CallFlops(total=total, sites=tuple(self._call_sites)))
        if self._is_first_step:
            self._totals[position.transformer] += total

    def site(self, index: int, forward: Forward, args: Any, kwargs: Any) -> Any:
        """Computes, and adds the FLOPs to the site (see `Measurement`)."""
        before, scores_before = self._mode.get_total_flops(), self._scores
        output = forward(*args, **kwargs)
        flops = self._mode.get_total_flops() - before
        self._call_sites[index] += flops
        if self._is_first_step:
            self._sites[index] += flops
            self._site_scores[index] += self._scores - scores_before
        return output

    feeder = site


def computed_fraction(
    calls: Sequence[CallFlops], computed: Sequence[frozenset[int] | None], halved: Sequence[bool] = ()
) -> float:
    """Fraction of the FLOPs of a run without a policy that the same run with a policy computes, 0..1.

    Args:
        calls: FLOPs of each call of the run without a policy, in call order.
        computed: indices of the sites that computed in each call of the run with the policy; None for a call that did not
            happen.
        halved: whether half of the samples of each call computed; empty = of none.

    Raises:
        ModelError: the two runs do not have the same calls.
    """
    if len(calls) != len(computed):
        raise ModelError(
            f"a run without a policy calls the transformers {len(calls)} times, with one {len(computed)} times; the FLOPs "
            "that a policy saves cannot be counted"
        )
    saved = sum(
        _saved(call, indices, is_halved)
        for call, indices, is_halved in zip(calls, computed, halved or [False] * len(calls), strict=True)
    )
    return 1.0 - saved / sum(call.total for call in calls)


def _saved(call: CallFlops, computed: frozenset[int] | None, is_halved: bool) -> float:
    """FLOPs that a call saves."""
    if computed is None:
        return call.total
    inside = sum(flops for index, flops in enumerate(call.sites) if index not in computed)
    return (call.total + inside) / 2 if is_halved else inside
