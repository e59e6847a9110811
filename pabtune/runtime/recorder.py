"""Measures a running model: how much each site's output changes from step to step, and how long it takes.

Of every output the recorder keeps the previous step's (for the exact change) and, per step, a sketch: the output times a
fixed random matrix over its tokens, so what is kept per step does not grow with the video. Squared distances of sketches
estimate those of the outputs (Johnson-Lindenstrauss); the error on neighbouring steps, where the exact value is known,
is measured.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pabtune.runtime.clock import Moment
from pabtune.runtime.interception import CallListener, Forward, tensors_of
from pabtune.runtime.storing import kept_bytes
from pabtune.runtime.timing import Stopwatch

PROJECTIONS = 64
BRANCH_SEPARATOR = "+"
"""Joins the names of branches that share one batched call: `cond+uncond` = first half, second half."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What was seen of a site's output in one step.

    Attributes:
        shape: of the output, (samples, tokens, width).
        sketch: (samples, projections, width).
        square: mean square of every sample, (samples,).
        change: exact mean squared difference from the step before, (samples,); None if nothing comparable came before.
    """

    shape: tuple[int, ...]
    sketch: Tensor
    square: Tensor
    change: Tensor | None


@dataclass(slots=True, kw_only=True)
class Trace:
    """What was seen of one site in one branch during the current run: a look per step in which it was called."""

    previous: Tensor | None = None
    is_near: bool = True
    looks: dict[int, Look] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """Measurements of one run, averaged over its samples; by branch, then (sites, steps[, steps]) tensors.

    NaN stands where there is nothing to compare: a site was not called, or its output had another shape before. The first
    step has no predecessor and holds 0.

    Attributes:
        mse: mean squared difference from the step before.
        change: the same over the mean square of the output.
        distance: relative squared distance of two steps' outputs, from sketches.
        sketch_error: relative errors of sketched against exact distances of neighbouring steps, flat.
        seconds: (sites, steps), all branches together, for the whole batch.
        site_bytes: of one output of each site, all branches together, for the whole batch.
        site_int8_bytes: the same for outputs that are kept in 8 bits.
        step_seconds: (steps,), all branches together, for the whole batch, without the recorder's own work.
        calls: of the transformer in the last step.
        samples: that went through it in that step, over its calls.
        shape: of its first argument, without the samples.
    """

    mse: dict[str, Tensor]
    change: dict[str, Tensor]
    distance: dict[str, Tensor]
    sketch_error: Tensor
    seconds: Tensor
    step_seconds: Tensor
    site_bytes: tuple[int, ...]
    site_int8_bytes: tuple[int, ...]
    calls: int
    samples: int
    shape: tuple[int, ...]


class Recorder(CallListener):
    """A listener that measures one run after another. After each, take its `recording()`.

    Args:
        sites: number of sites.
        device: where the model runs.
        memory: bytes of the step before that may be held there; the rest is held by the host. None = any.
        projections: rows of the random matrix.
        seed: of the random matrix.
    """

    def __init__(
        self,
        sites: int,
        device: torch.device,
        memory: int | None = None,
        projections: int = PROJECTIONS,
        seed: int = 0,
    ) -> None:
        self._memory = memory
        self._sites = sites
        self._device = device
        self._projections = projections
        self._seed = seed
        self._matrices: dict[int, Tensor] = {}
        self._run: object = None
        self._clear()

    def begin(self, transformer: str, moment: Moment, shape: tuple[int, ...]) -> None:
        """Notes step and branches (see `Listener`)."""
        if moment.run is not self._run:
            self._clear()
            self._run = moment.run
        super().begin(transformer, moment, shape)
        self._step = moment.step
        self._calls.append((moment.step, shape))
        self._names = moment.branch.split(BRANCH_SEPARATOR)
        self._root = self._watch.time("root")
        self._root.__enter__()

    def end(self, transformer: str) -> None:
        """Adds the call to the step's time (see `Listener`)."""
        self._root.__exit__(None, None, None)
        total = self._watch.seconds() if self._device.type == "cpu" else {}
        self._step_marks.append((self._step, total.get("root", 0.0), total.get("recorder", 0.0)))

    def site(self, index: int, forward: Forward, args: Any, kwargs: Any) -> Any:
        """Computes, times and measures (see `Listener`)."""
        with self._watch.time((index, self._step)):
            output = forward(*args, **kwargs)
        with self._watch.time("recorder"):
            tensors = tensors_of(output)
            self._bytes[index, "+".join(self._names)] = (kept_bytes(tensors, "exact"), kept_bytes(tensors, "int8"))
            tensor = output if isinstance(output, Tensor) else output[0]
            for name, part in zip(self._names, tensor.chunk(len(self._names)), strict=True):
                self._measure(self._traces.setdefault((name, index), Trace()), part)
        return output

    def feed(self, index: int, forward: Forward, args: Any, kwargs: Any) -> Any:
        """Adds a feeder's time to its site (see `Listener`)."""
        with self._watch.time((index, self._step)):
            return forward(*args, **kwargs)

    def reset(self) -> None:
        """Frees the outputs that are held; measurements stay (see `Listener`)."""
        for trace in self._traces.values():
            trace.previous = None

    def recording(self) -> Recording:
        """The measurements of the run that is over."""
        steps = max((step for step, _, _ in self._step_marks), default=-1) + 1
        names = list(dict.fromkeys(name for name, _ in self._traces))
        mse, change, distance, errors = {}, {}, {}, []
        for name in names:
            traces = [self._traces.get((name, index), Trace()) for index in range(self._sites)]
            mse[name] = torch.stack([_curve(trace, steps, lambda look: look.change) for trace in traces])
            change[name] = torch.stack(
                [_curve(trace, steps, lambda look: look.change / look.square.clamp_min(1e-30)) for trace in traces]
            )
            pairs = [_distances(trace, steps) for trace in traces]
            distance[name] = torch.stack([relative for relative, _ in pairs])
            errors += [error for _, found in pairs for error in found]
        shapes = [shape for step, shape in self._calls if step == steps - 1]
        return Recording(
            mse=mse,
            change=change,
            distance=distance,
            sketch_error=torch.cat(errors).cpu() if errors else torch.zeros(0),
            seconds=self._site_seconds(steps),
            step_seconds=self._step_seconds(steps),
            site_bytes=self._weights(0),
            site_int8_bytes=self._weights(1),
            calls=len(shapes),
            samples=sum(shape[0] for shape in shapes),
            shape=shapes[-1][1:] if shapes else (),
        )

    def _weights(self, way: int) -> tuple[int, ...]:
        return tuple(
            sum(each[way] for (index, _), each in self._bytes.items() if index == site) for site in range(self._sites)
        )

    def _clear(self) -> None:
        self._watch = Stopwatch(self._device)
        self._bytes: dict[tuple[int, str], tuple[int, int]] = {}
        self._traces: dict[tuple[str, int], Trace] = {}
        self._step_marks: list[tuple[int, float, float]] = []
        self._calls: list[tuple[int, tuple[int, ...]]] = []

    def _measure(self, trace: Trace, output: Tensor) -> None:
        if self._step in trace.looks:
            return  # called again in the same step
        own = output.flatten(1, -2)
        tokens, before = own.float(), trace.previous
        change = None
        if self._step - 1 in trace.looks and before is not None and before.shape == own.shape:
            change = (tokens - before.to(tokens.device).float()).square().mean((1, 2))
        self._hold(trace, own)
        # Scaled such that the summed square of a sketch estimates the mean square of the output.
        sketch = self._matrix(tokens.shape[1]) @ tokens / (self._projections * tokens[0].numel()) ** 0.5
        trace.looks[self._step] = Look(
            shape=tuple(own.shape), sketch=sketch, square=tokens.square().mean((1, 2)), change=change
        )

    def _hold(self, trace: Trace, output: Tensor) -> None:
        """Keeps an output for the next step, in the type it has, where there is room for it."""
        held = sum(each.previous.nbytes for each in self._traces.values() if each.previous is not None and each.is_near)
        held -= trace.previous.nbytes if trace.previous is not None and trace.is_near else 0
        trace.is_near = self._memory is None or held + output.nbytes <= self._memory
        trace.previous = output if trace.is_near else output.cpu()

    def _matrix(self, tokens: int) -> Tensor:
        if tokens not in self._matrices:
            generator = torch.Generator().manual_seed(self._seed)
            self._matrices[tokens] = torch.randn(self._projections, tokens, generator=generator).to(self._device)
        return self._matrices[tokens]

    def _site_seconds(self, steps: int) -> Tensor:
        seconds = torch.zeros(self._sites, steps)
        for key, value in self._watch.seconds().items():
            if isinstance(key, tuple):
                seconds[key] = value
        return seconds

    def _step_seconds(self, steps: int) -> Tensor:
        """On CUDA only the sum over the run is known; it is spread evenly."""
        seconds = torch.zeros(steps)
        if self._device.type != "cpu":
            total = self._watch.seconds()
            return seconds + (total["root"] - total["recorder"]) / steps
        spent = 0.0
        for step, root, recorder in self._step_marks:
            seconds[step] += root - recorder - spent
            spent = root - recorder
        return seconds


def _curve(trace: Trace, steps: int, measure: Callable[[Any], Tensor]) -> Tensor:
    """A measure of each look's change, (steps,), averaged over samples."""
    curve = torch.full((steps,), torch.nan)
    for step, look in trace.looks.items():
        if look.change is not None:
            curve[step] = measure(look).mean()
        elif step == 0:
            curve[step] = 0
    return curve


def _distances(trace: Trace, steps: int) -> tuple[Tensor, list[Tensor]]:
    """Relative squared distances of the outputs of any two steps, (steps, steps), and how far sketches are from exact ones."""
    distances, errors = torch.full((steps, steps), torch.nan), []
    groups: dict[tuple[int, ...], list[int]] = {}
    for step, look in trace.looks.items():
        groups.setdefault(look.shape, []).append(step)
    for group in groups.values():
        looks = [trace.looks[step] for step in group]
        squares_nb = torch.stack([look.square for look in looks])
        pairs_nnb = _pair_distances(torch.stack([look.sketch for look in looks]))
        between = (squares_nb[:, None] + squares_nb[None]) / 2
        places = torch.tensor(group)
        distances[places[:, None], places] = (pairs_nnb / between.clamp_min(1e-30)).mean(-1).cpu()
        for place in range(1, len(group)):
            known = looks[place].change
            if known is not None:
                errors.append(((pairs_nnb[place, place - 1] / known - 1).abs())[known > 0])
    return distances, errors


def _pair_distances(sketches_nbkw: Tensor) -> Tensor:
    """Squared distances (steps, steps, samples) of sketches (steps, samples, projections, width)."""
    flat_bnv = sketches_nbkw.flatten(2).transpose(0, 1)
    return torch.cdist(flat_bnv, flat_bnv, compute_mode="donot_use_mm_for_euclid_dist").square().permute(1, 2, 0)
