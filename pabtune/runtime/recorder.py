"""Measuring a running model: how much each site's output changes from step to step, and how long it takes.

The recorder keeps each site's previous output, for the exact change, and a sketch of its output in every step: the output
multiplied by two fixed random matrices, over its tokens and over its width, so that a sketch takes 32 KiB regardless of the
size of video and model. Squared distances of sketches estimate those of the outputs (Johnson-Lindenstrauss); the error is
measured on neighbouring steps, where the exact value is known. After each call its sketches move to the host's memory.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from pabtune.records.policies import Store
from pabtune.runtime.interception import Interception
from pabtune.runtime.listeners import Forward, Measurement, tensors_of
from pabtune.runtime.locator import CallPosition
from pabtune.runtime.payloads import taken_apart
from pabtune.runtime.stores import kept_bytes
from pabtune.runtime.targets import Target
from pabtune.runtime.timing import Stopwatch

PROJECTIONS = 64
"""Rows of a sketch."""

WIDTH_PROJECTIONS = 128
"""Columns of a sketch; narrower outputs keep their width."""

T = TypeVar("T")
K = TypeVar("K")

BRANCH_SEPARATOR = "+"
"""Joins the names of branches that share one batched call: `cond+uncond` = first half, second half."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """Measurements of a site's output in one step.

    Attributes:
        shape: shape of the output, (samples, tokens, width).
        sketch: sketch of the output, (samples, rows, columns).
        square: mean square of each sample, (samples,).
        change: exact mean squared difference from the previous step, (samples,); None without a comparable output.
    """

    shape: tuple[int, ...]
    sketch: Tensor
    square: Tensor
    change: Tensor | None


@dataclass(slots=True, kw_only=True)
class SiteHistory:
    """Measurements of one site in one branch during the current run.

    Attributes:
        previous: output of the latest step, (samples, tokens, width); None before the first and after the run.
        is_near: whether `previous` is on the device, not on the host.
        observations: one for each step in which the site was called.
    """

    previous: Tensor | None = None
    is_near: bool = True
    observations: dict[int, Observation] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """Measurements of one run, averaged over its samples; curves are (sites, steps[, steps]) tensors by branch.

    A value is NaN if there is nothing to compare: the site was not called, or its output had another shape before. The
    first step has no predecessor and is 0.

    Attributes:
        mse: mean squared difference from the previous step.
        change: `mse` divided by the mean square of the output.
        distance: relative squared distance of the outputs of two steps, from sketches.
        sketch_error: relative errors of sketched against exact distances of neighbouring steps, flat.
        seconds: time of each site, (sites, steps), summed over branches, for the full batch.
        site_bytes: bytes of one output of each site, summed over branches, for the full batch.
        site_int8_bytes: the same for outputs stored in 8 bits.
        output_bytes: bytes of what the transformer's calls of a step put out, for the full batch.
        output_int8_bytes: the same for outputs stored in 8 bits.
        step_seconds: time of each step, (steps,), summed over branches, for the full batch, without the recorder's work.
        calls: transformer calls in the last step.
        samples: samples in these calls, summed.
        shape: shape of the transformer's first argument, without the samples.
    """

    mse: dict[str, Tensor]
    change: dict[str, Tensor]
    distance: dict[str, Tensor]
    sketch_error: Tensor
    seconds: Tensor
    step_seconds: Tensor
    site_bytes: tuple[int, ...]
    site_int8_bytes: tuple[int, ...]
    output_bytes: int
    output_int8_bytes: int
    calls: int
    samples: int
    shape: tuple[int, ...]


class Recorder(Measurement):
    """Measurement of one run after another; `recording()` returns the latest.

    Args:
        sites: number of sites.
        device: device of the model.
        memory: limit of bytes of outputs held there between calls; the host holds the rest. None = no limit.
        projections: rows of a sketch.
        seed: seed of the random matrices.
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
        self._matrices: dict[tuple[int, int], Tensor] = {}
        self._clear()

    def begin(self, position: CallPosition, sample: Tensor) -> None:
        """Notes step and branches (see `Session`)."""
        super().begin(position, sample)
        if position.is_new_loop:
            self._clear()
        self._step = position.step
        self._calls.append((position.step, tuple(sample.shape)))
        self._names = position.branch.split(BRANCH_SEPARATOR)
        self._watch.start("root")

    def end(self, position: CallPosition, output: Any) -> None:
        """Adds the call to the step's time, and moves its sketches to the host (see `Session`)."""
        super().end(position, output)
        self._watch.stop("root")
        note_sizes(self._output_bytes, (position.transformer, position.branch), tensors_of(taken_apart(output)[1]))
        for history in self._fresh:
            current = history.observations[self._step]
            change = None if current.change is None else current.change.cpu()
            history.observations[self._step] = replace(
                current, sketch=current.sketch.cpu(), square=current.square.cpu(), change=change
            )
        self._fresh.clear()
        total = self._watch.seconds() if self._device.type == "cpu" else {}
        self._step_marks.append((self._step, total.get("root", 0.0), total.get("recorder", 0.0)))

    def site(self, index: int, forward: Forward, args: Any, kwargs: Any) -> Any:
        """Computes, times and measures (see `Measurement`)."""
        with self._watch.time((index, self._step)):
            output = forward(*args, **kwargs)
        with self._watch.time("recorder"):
            note_sizes(self._bytes, (index, BRANCH_SEPARATOR.join(self._names)), tensors_of(output))
            tensor = output if isinstance(output, Tensor) else output[0]
            for name, part in zip(self._names, tensor.chunk(len(self._names)), strict=True):
                self._measure(self._histories.setdefault((name, index), SiteHistory()), part)
        return output

    def feeder(self, index: int, forward: Forward, args: Any, kwargs: Any) -> Any:
        """Adds a feeder's time to its site (see `Measurement`)."""
        with self._watch.time((index, self._step)):
            return forward(*args, **kwargs)

    def finish(self) -> None:
        """Frees the stored outputs; measurements stay (see `Session`)."""
        for history in self._histories.values():
            history.previous = None

    def recording(self) -> Recording:
        """The measurements of the latest run."""
        steps = max((step for step, _, _ in self._step_marks), default=-1) + 1
        names = list(dict.fromkeys(name for name, _ in self._histories))
        mse, change, distance, errors = {}, {}, {}, []
        for name in names:
            histories = [self._histories.get((name, index), SiteHistory()) for index in range(self._sites)]
            mse[name] = torch.stack([_curve(history, steps, lambda each: each.change) for history in histories])
            change[name] = torch.stack(
                [
                    _curve(history, steps, lambda each: each.change / each.square.clamp_min(1e-30))
                    for history in histories
                ]
            )
            pairs = [_distances(history, steps) for history in histories]
            distance[name] = torch.stack([relative for relative, _ in pairs])
            errors += [error for _, site_errors in pairs for error in site_errors]
        shapes = [shape for step, shape in self._calls if step == steps - 1]
        return Recording(
            mse=mse,
            change=change,
            distance=distance,
            sketch_error=torch.cat(errors).cpu() if errors else torch.zeros(0),
            seconds=self._site_seconds(steps),
            step_seconds=self._step_seconds(steps),
            site_bytes=self._site_bytes("exact"),
            site_int8_bytes=self._site_bytes("int8"),
            output_bytes=self._bytes_put_out("exact"),
            output_int8_bytes=self._bytes_put_out("int8"),
            calls=len(shapes),
            samples=sum(shape[0] for shape in shapes),
            shape=shapes[-1][1:] if shapes else (),
        )

    def _site_bytes(self, store: Store) -> tuple[int, ...]:
        """Bytes of one stored output of each site, summed over branches."""
        totals = [0] * self._sites
        for (index, _), sizes in self._bytes.items():
            totals[index] += sizes[store]
        return tuple(totals)

    def _bytes_put_out(self, store: Store) -> int:
        """Bytes of the stored outputs of a step's calls; of transformers that take turns, those of the larger ones."""
        totals: dict[str, int] = {}
        for (transformer, _), sizes in self._output_bytes.items():
            totals[transformer] = totals.get(transformer, 0) + sizes[store]
        return max(totals.values(), default=0)

    def _clear(self) -> None:
        self._watch = Stopwatch(self._device)
        self._bytes: dict[tuple[int, str], dict[Store, int]] = {}
        self._output_bytes: dict[tuple[str, str], dict[Store, int]] = {}
        self._histories: dict[tuple[str, int], SiteHistory] = {}
        self._step_marks: list[tuple[int, float, float]] = []
        self._calls: list[tuple[int, tuple[int, ...]]] = []
        self._fresh: list[SiteHistory] = []

    def _measure(self, history: SiteHistory, output: Tensor) -> None:
        if self._step in history.observations:
            return  # called again in the same step
        # The block may later change its attention's output in place.
        current = output.flatten(1, -2).clone()
        tokens, previous = current.float(), history.previous
        change = None
        if self._step - 1 in history.observations and previous is not None and previous.shape == current.shape:
            change = _mean_square(tokens - previous.to(tokens.device).float())
        self._hold(history, current)
        # Scaled so that the sum of squares of a sketch estimates the mean square of the output.
        columns = min(tokens.shape[2], WIDTH_PROJECTIONS)
        rows = (
            self._matrix(self._projections, tokens.shape[1]) @ tokens / (self._projections * tokens[0].numel()) ** 0.5
        )
        sketch = (
            rows if columns == tokens.shape[2] else rows @ self._matrix(columns, tokens.shape[2], 1).T / columns**0.5
        )
        self._fresh.append(history)
        history.observations[self._step] = Observation(
            shape=tuple(current.shape), sketch=sketch, square=_mean_square(tokens), change=change
        )

    def _hold(self, history: SiteHistory, output: Tensor) -> None:
        """Keeps an output for the next step in its own dtype, on the device if the limit allows it, else on the host."""
        device_bytes = sum(
            each.previous.nbytes for each in self._histories.values() if each.previous is not None and each.is_near
        )
        device_bytes -= history.previous.nbytes if history.previous is not None and history.is_near else 0
        history.is_near = self._memory is None or device_bytes + output.nbytes <= self._memory
        history.previous = output if history.is_near else output.cpu()

    def _matrix(self, rows: int, columns: int, offset: int = 0) -> Tensor:
        """A fixed random matrix (rows, columns); each offset of the seed gives another one."""
        if (rows, columns) not in self._matrices:
            generator = torch.Generator().manual_seed(self._seed + offset)
            self._matrices[rows, columns] = torch.randn(rows, columns, generator=generator).to(self._device)
        return self._matrices[rows, columns]

    def _site_seconds(self, steps: int) -> Tensor:
        seconds = torch.zeros(self._sites, steps)
        for key, value in self._watch.seconds().items():
            if isinstance(key, tuple):
                seconds[key] = value
        return seconds

    def _step_seconds(self, steps: int) -> Tensor:
        """Time of each step without the recorder's work, (steps,); on CUDA only the sum is known and spread evenly."""
        seconds = torch.zeros(steps)
        if self._device.type != "cpu":
            total = self._watch.seconds()
            return seconds + (total["root"] - total["recorder"]) / steps
        spent = 0.0
        for step, root, recorder in self._step_marks:
            seconds[step] += root - recorder - spent
            spent = root - recorder
        return seconds


def note_sizes(sizes: dict[K, dict[Store, int]], key: K, tensors: Sequence[Tensor]) -> None:
    """Notes the bytes of the parts of one output by store; the largest count where the video changes its length on the way."""
    before = sizes.get(key, {})
    stores: tuple[Store, ...] = ("exact", "int8")
    sizes[key] = {store: max(kept_bytes(tensors, store), before.get(store, 0)) for store in stores}


def _curve(history: SiteHistory, steps: int, measure: Callable[[Any], Tensor]) -> Tensor:
    """Mean over samples of a measure of each observation, (steps,); NaN without a comparable previous step."""
    curve = torch.full((steps,), torch.nan)
    for step, each in history.observations.items():
        if each.change is not None:
            curve[step] = measure(each).mean()
        elif step == 0:
            curve[step] = 0
    return curve


def _distances(history: SiteHistory, steps: int) -> tuple[Tensor, list[Tensor]]:
    """Relative squared distances between the outputs of all steps, (steps, steps), and the errors of sketches."""
    distances, errors = torch.full((steps, steps), torch.nan), []
    groups: dict[tuple[int, ...], list[int]] = {}
    for step, each in history.observations.items():
        groups.setdefault(each.shape, []).append(step)
    for group in groups.values():
        observations = [history.observations[step] for step in group]
        squares_nb = torch.stack([each.square for each in observations])
        pairs_nnb = _pair_distances(torch.stack([each.sketch for each in observations]))
        mean_squares_nnb = (squares_nb[:, None] + squares_nb[None]) / 2
        indices = torch.tensor(group)
        distances[indices[:, None], indices] = (pairs_nnb / mean_squares_nnb.clamp_min(1e-30)).mean(-1).cpu()
        for index in range(1, len(group)):
            exact = observations[index].change
            if exact is not None:
                errors.append(((pairs_nnb[index, index - 1] / exact - 1).abs())[exact > 0])
    return distances, errors


def _mean_square(tensor: Tensor) -> Tensor:
    """Mean square of each sample, in one pass over the tensor."""
    return torch.linalg.vector_norm(tensor, dim=(1, 2)).square() / tensor[0].numel()


def _pair_distances(sketches_nbkw: Tensor) -> Tensor:
    """Squared distances (steps, steps, samples) of sketches (steps, samples, projections, width).

    By inner products, in float64: neighbouring outputs are nearly alike, and float32 would lose their difference.
    """
    flat_bnv = sketches_nbkw.flatten(2).transpose(0, 1).double()
    products_bnn = flat_bnv @ flat_bnv.transpose(1, 2)
    squares_bn = products_bnn.diagonal(dim1=1, dim2=2)
    distances_bnn = squares_bn[:, :, None] + squares_bn[:, None] - 2 * products_bnn
    return distances_bnn.clamp_min(0).permute(1, 2, 0).to(sketches_nbkw.dtype)


def record(target: Target, listener: Measurement, run: Callable[[], T]) -> T:
    """Calls `run` with a measurement attached to the target, and returns its result.

    Args:
        target: the model.
        listener: the measurement.
        run: makes the pipeline's call.
    """
    interception = Interception(target, listener)
    try:
        return run()
    finally:
        interception.detach()
