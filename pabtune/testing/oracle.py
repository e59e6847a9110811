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
    """Tensors of a transformer's output."""
    return list(output.values() if isinstance(output, dict) else output)


def made_like(output: Any, parts: Sequence[Any]) -> Any:
    """An output of the same type with copies of these tensors."""
    parts = [part.clone() for part in parts]
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
    last_call: dict[tuple[str, int], tuple[int, torch.Size]] = {}
    computed: dict[str, int] = defaultdict(int)
    state = {"calls": 0, "step": 0, "ordinal": 0, "follows": False}
    rows = {site.name: row for site, row in zip(mask.sites, mask.compute, strict=True)}
    undo = []
    calls = CallsByHand(rows, conditional, shares_call=shares_call)

    def patch_root(name: str) -> None:
        transformer = getattr(pipeline, name)
        forward = transformer.forward

        def root(*args, **kwargs):
            step, ordinal = state["calls"] // calls_per_step % mask.steps, state["calls"] % calls_per_step
            shape = next(value.shape for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor))
            follows = last_call.get((name, ordinal)) == (step - 1, shape)
            last_call[name, ordinal] = (step, shape)
            state.update(calls=state["calls"] + 1, step=step, ordinal=ordinal, follows=follows)

            inner = partial(call_with_part, forward, args, kwargs, shape[0])
            return calls.call(inner, name, ordinal, step=step, follows=follows)

        transformer.forward = root
        undo.append(lambda: vars(transformer).pop("forward"))

    def patch_site(name: str, path: str) -> None:
        module = getattr(pipeline, name).get_submodule(path)
        forward = module.forward

        def site(*args, **kwargs):
            full_name = f"{name}.{path}"
            key = (full_name, state["ordinal"])
            if rows[full_name][state["step"]] or not state["follows"]:
                computed[full_name] += 1
                if calls.is_alone:
                    return forward(*args, **kwargs)
                stored[key] = forward(*args, **kwargs)
            return calls.served(stored[key])

        module.forward = site
        undo.append(lambda: vars(module).pop("forward"))

    for site in filter(attrgetter("path"), mask.sites):
        patch_site(site.transformer, site.path)
    for name in dict.fromkeys(site.transformer for site in mask.sites):
        patch_root(name)
    try:
        yield computed
    finally:
        for step in undo:
            step()


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
    calls_made, steps_computed, undo = [0], [], []
    names = [name for name in ("transformer", "transformer_2") if getattr(pipeline, name, None) is not None]

    def patch(transformer: torch.nn.Module) -> None:
        forward = transformer.forward

        def call(*args, **kwargs):
            step, ordinal = divmod(calls_made[0], calls_per_step)
            calls_made[0] += 1
            if step in computed:
                steps_computed.append(step)
                output = forward(*args, **kwargs)
                values = output.values() if isinstance(output, dict) else output
                outputs[ordinal].append([value.clone() for value in values])
                shapes[ordinal] = output
                return output
            used = outputs[ordinal][-len(weights[step]) :]
            served = [
                sum(weight * tensor.double() for weight, tensor in zip(weights[step], tensors, strict=True)).to(
                    tensors[0]
                )
                for tensors in zip(*used, strict=True)
            ]
            like = shapes[ordinal]
            return type(like)(**dict(zip(like, served, strict=True))) if isinstance(like, dict) else type(like)(served)

        transformer.forward = call
        undo.append(lambda: vars(transformer).pop("forward"))

    for name in names:
        patch(getattr(pipeline, name))
    try:
        yield steps_computed
    finally:
        for step in undo:
            step()
