"""An independent, plain implementation of broadcasting, as a reference for the engine, with which it shares no code.

It gets the number of model calls per step as an argument, counts calls, stores every computed output, and skips nothing but
the site itself.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline

from pabtune.planning.masks import ComputeMask
from pabtune.records.policies import Policy
from pabtune.records.rules import Rule
from pabtune.records.sites import Site


def mask_by_hand(policy: Policy, sites: Sequence[Site], steps: int) -> ComputeMask:
    """The compute mask of a policy, decided for each site and step from the words of its rules.

    Args:
        policy: a policy whose rules have a range and a window in steps of this run.
        sites: sites of the model.
        steps: number of denoising steps.
    """

    def computes(site: Site, step: int) -> bool:
        own = [each for each in policy.rules if each.kind == site.kind and site.layer in (each.layers or [site.layer])]
        return all(_is_computed(rule, step) for rule in own)

    rows = [[computes(site, step) for step in range(steps)] for site in sites]
    return ComputeMask(sites=tuple(sites), compute=np.array(rows))


def _is_computed(rule: Rule, step: int) -> bool:
    """A window's steps compute once per range, counted from step 0 or from the step before the window; all others compute."""
    if rule.range is None or rule.window is None:
        raise ValueError(f"only a rule with a range and a window in steps is decided by hand, but got {rule}")
    first, end = rule.window
    if step == 0 or step < first or step >= end:
        return True
    origin = 0 if rule.anchor == "start" else max(first, 1) - 1
    return (step - origin) % rule.range == 0


def part_of(value: object, samples: slice, count: int) -> object:
    """Some samples of an argument that has `count` of them; other arguments as they are."""
    is_per_sample = isinstance(value, torch.Tensor) and value.ndim > 0 and value.shape[0] == count
    return value[samples] if is_per_sample else value


def half_of(kept: object, half: int) -> object:
    """The first or second half of the samples of a kept output."""
    if isinstance(kept, tuple):
        return tuple(half_of(part, half) for part in kept)
    return kept.chunk(2)[half]  # type: ignore[attr-defined]


def call_with_part(
    forward: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    count: int,
    part: Callable[[Any, int], Any],
) -> Any:
    """Calls with a part of each argument; `count` samples are in the call."""
    return forward(*[part(each, count) for each in args], **{key: part(each, count) for key, each in kwargs.items()})


def parts_of(output: Any) -> list[Any]:
    """Tensors of a transformer's output: a tensor, a tuple, or an output class of diffusers."""
    if isinstance(output, torch.Tensor):
        return [output]
    return list(output.values() if isinstance(output, dict) else output)


def made_like(output: Any, parts: Sequence[Any]) -> Any:
    """An output of the same type with copies of these tensors."""
    parts = [part.clone() for part in parts]
    if isinstance(output, torch.Tensor):
        return parts[0]
    return type(output)(**dict(zip(output, parts, strict=True))) if isinstance(output, dict) else type(output)(parts)


class CallsByHand:
    """Makes a transformer's calls: all of a call, its conditional half, or none.

    Args:
        rows: steps in which each site computes, by name.
        conditional: which half of the samples of a call is conditional, or which call of a step.
        shares_call: whether both guidance branches are in the first call of a step.

    Attributes:
        is_alone: whether the guidance difference is broadcast in this step; what computes is not stored.
        is_half: whether half of the call's samples compute.
    """

    def __init__(self, rows: Mapping[str, Any], conditional: int, *, shares_call: bool) -> None:
        self._rows, self._conditional, self._shares_call = rows, conditional, shares_call
        self._stored: dict[tuple[str, int], Any] = {}
        self._conditional_parts: list[Any] = []
        self._like: Any = None
        self.is_alone = self.is_half = False

    def call(self, forward: Callable[..., Any], name: str, ordinal: int, *, step: int, follows: bool) -> Any:
        """The output of a call, by a forward that gets a function which takes its part of an argument."""
        rows, key, difference = self._rows, (name, ordinal), f"{name}/guidance"
        has_unconditional = ordinal == (0 if self._shares_call else 1 - self._conditional)
        self.is_alone = difference in rows and not rows[difference][step] and follows
        self.is_half = self.is_alone and self._shares_call and ordinal == 0
        is_broadcast = name in rows and not rows[name][step] and follows
        if is_broadcast:
            self._like, parts = self._stored[key]
        elif self.is_alone and has_unconditional:
            parts = self._put_together(forward, self._stored[difference, ordinal])
        else:
            self._like = forward(lambda value, _count: value)
            parts = parts_of(self._like)
            if has_unconditional:
                self._stored[difference, ordinal] = self._differences(parts)
        output = made_like(self._like, parts)
        if not is_broadcast:
            self._stored[key] = output, parts_of(made_like(output, parts))
        if ordinal == self._conditional:
            self._conditional_parts = parts_of(made_like(output, parts))
        return output

    def served(self, kept: object) -> object:
        """A kept output of a site: all of it, or its conditional half."""
        return half_of(kept, self._conditional) if self.is_half else kept

    def _put_together(self, forward: Callable[..., Any], kept: list[Any]) -> list[Any]:
        if not self._shares_call:
            return kept if self._conditional == 1 else self._sums(kept, self._conditional_parts)
        conditional = self._conditional

        def part(value: object, count: int) -> object:
            return part_of(value, slice(conditional * count // 2, (conditional + 1) * count // 2), count)

        self._like = forward(part)
        first = parts_of(self._like)
        halves = zip(first, self._sums(kept, first), strict=True)
        return [torch.cat(each if conditional == 0 else each[::-1]) for each in halves]

    def _differences(self, parts: list[Any]) -> list[Any]:
        if self._shares_call:
            halves = [part.chunk(2) for part in parts if len(part) % 2 == 0]
            return [each[1 - self._conditional] - each[self._conditional] for each in halves]
        if self._conditional == 1:
            return [part.clone() for part in parts]
        return [part - first for part, first in zip(parts, self._conditional_parts, strict=True)]

    @staticmethod
    def _sums(kept: list[Any], first: list[Any]) -> list[Any]:
        return [part + difference for part, difference in zip(first, kept, strict=True)]


def follower(calls_per_step: int, steps: int, state: dict) -> Callable[[str, Any, Any], int]:
    """A function that notes in `state` where a transformer's call stands and whether it follows the step before.

    It returns the number of samples of the call.
    """
    last_call: dict[tuple[str, int], tuple[int, torch.Size]] = {}

    def follow(name: str, args: Any, kwargs: Any) -> int:
        state["step"] = state["calls"] // calls_per_step % steps
        state["ordinal"] = state["calls"] % calls_per_step
        state["calls"] += 1
        key = (name, state["ordinal"])
        shape = next(value.shape for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor))
        state["follows"] = last_call.get(key) == (state["step"] - 1, shape)
        last_call[key] = (state["step"], shape)
        return shape[0]

    return follow


@contextmanager
def patched() -> Iterator[Callable[[torch.nn.Module, Callable[..., Any]], None]]:
    """A function that gives a module another `forward` until the end of a `with` block."""
    modules: list[torch.nn.Module] = []

    def patch(module: torch.nn.Module, forward: Callable[..., Any]) -> None:
        module.forward = forward
        modules.append(module)

    try:
        yield patch
    finally:
        for module in modules:
            del module.forward


@contextmanager
def broadcast_by_hand(
    pipeline: DiffusionPipeline,
    mask: ComputeMask,
    calls_per_step: int,
    conditional: int = 0,
    *,
    shares_call: bool = True,
) -> Iterator[dict[str, int]]:
    """Patches a pipeline's sites to follow a compute mask inside a `with` block.

    Args:
        pipeline: the pipeline, or any object with its transformers as attributes.
        mask: the compute mask.
        calls_per_step: transformer calls per denoising step.
        conditional: for masks with a guidance difference, which half of the samples of a call is conditional, or which call.
        shares_call: whether both guidance branches are in the first call of a step.

    Yields:
        The number of computed calls by site name, updated during the run.
    """
    stored: dict[tuple[str, int], object] = {}
    computed: dict[str, int] = defaultdict(int)
    state = {"calls": 0, "step": 0, "ordinal": 0, "follows": False}
    rows = {site.name: row for site, row in zip(mask.sites, mask.compute, strict=True)}
    calls = CallsByHand(rows, conditional, shares_call=shares_call)
    follow = follower(calls_per_step, mask.steps, state)

    def root(forward: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            inner = partial(call_with_part, forward, args, kwargs, follow(name, args, kwargs))
            return calls.call(inner, name, state["ordinal"], step=state["step"], follows=state["follows"])

        return call

    def site(forward: Callable[..., Any], name: str) -> Callable[..., Any]:
        def compute_or_serve(*args: Any, **kwargs: Any) -> Any:
            key = (name, state["ordinal"])
            if rows[name][state["step"]] or not state["follows"]:
                computed[name] += 1
                if calls.is_alone:
                    return forward(*args, **kwargs)
                stored[key] = forward(*args, **kwargs)
            return calls.served(stored[key])

        return compute_or_serve

    with patched() as patch:
        for each in filter(attrgetter("path"), mask.sites):
            module = getattr(pipeline, each.transformer).get_submodule(each.path)
            patch(module, site(module.forward, f"{each.transformer}.{each.path}"))
        for name in dict.fromkeys(each.transformer for each in mask.sites):
            transformer = getattr(pipeline, name)
            patch(transformer, root(transformer.forward, name))
        yield computed


@contextmanager
def calls_by_hand(
    pipeline: DiffusionPipeline, computed: Sequence[int], weights: Mapping[int, Sequence[float]], calls_per_step: int
) -> Iterator[list[int]]:
    """Patches a pipeline's transformers to compute in some steps only inside a `with` block.

    Args:
        pipeline: the pipeline, or any object with its transformers as attributes.
        computed: the steps that compute.
        weights: per other step, weights of the last computed outputs, the latest last.
        calls_per_step: transformer calls per denoising step.

    Yields:
        The steps of the calls that computed, updated during the run.
    """
    outputs: dict[int, list[list[torch.Tensor]]] = defaultdict(list)
    shapes: dict[int, Any] = {}
    calls_made, steps_computed = [0], []

    def patched_call(forward: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args, **kwargs):
            step, ordinal = divmod(calls_made[0], calls_per_step)
            calls_made[0] += 1
            if step in computed:
                steps_computed.append(step)
                output = forward(*args, **kwargs)
                outputs[ordinal].append([part.clone() for part in parts_of(output)])
                shapes[ordinal] = output
                return output
            used = outputs[ordinal][-len(weights[step]) :]
            served = [
                sum(weight * tensor.double() for weight, tensor in zip(weights[step], tensors, strict=True)).to(
                    tensors[0]
                )
                for tensors in zip(*used, strict=True)
            ]
            return made_like(shapes[ordinal], served)

        return call

    with patched() as patch:
        for name in ("transformer", "transformer_2"):
            transformer = getattr(pipeline, name, None)
            if transformer is not None:
                patch(transformer, patched_call(transformer.forward))
        yield steps_computed
