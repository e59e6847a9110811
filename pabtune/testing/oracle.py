"""An independent, plain implementation of broadcasting, as a reference for the engine, with which it shares no code.

It gets the number of model calls per step as an argument, counts calls, stores every computed output, and skips nothing but
the site itself.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
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


def server(state: dict, conditional: int) -> Callable[[object], object]:
    """A function that serves a kept output: all of it, or its conditional half."""
    return lambda kept: half_of(kept, conditional) if state["half"] else kept


def caller(rows: Mapping[str, Any], stored: dict, state: dict, conditional: int) -> Callable[..., Any]:
    """A function that makes a transformer's call: all of it, its conditional half, or none."""

    def call(forward: Callable[..., Any], name: str, args: Any, kwargs: Any, count: int) -> Any:
        step, ordinal, difference = state["step"], state["ordinal"], f"{name}/guidance"
        if name in rows and not rows[name][step] and state["follows"]:
            return tuple(part.clone() for part in stored[name, ordinal])
        state["half"] = difference in rows and not rows[difference][step] and state["follows"]
        if state["half"]:
            mine = slice(conditional * count // 2, (conditional + 1) * count // 2)
            args = [part_of(each, mine, count) for each in args]
            kwargs = {key: part_of(each, mine, count) for key, each in kwargs.items()}
            (cond,) = forward(*args, **kwargs)
            both = [cond, cond + stored[difference, ordinal]]
            output = (torch.cat(both if conditional == 0 else both[::-1]),)
        else:
            output = forward(*args, **kwargs)
            if difference in rows:
                halves = output[0].chunk(2)
                stored[difference, ordinal] = halves[1 - conditional] - halves[conditional]
        if name in rows:
            stored[name, ordinal] = tuple(part.clone() for part in output)
        return output

    return call


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
    pipeline: DiffusionPipeline, mask: ComputeMask, calls_per_step: int, conditional: int = 0
) -> Iterator[dict[str, int]]:
    """Patches a pipeline's sites to follow a compute mask inside a `with` block.

    Args:
        pipeline: the pipeline, or any object with its transformers as attributes.
        mask: the compute mask.
        calls_per_step: transformer calls per denoising step.
        conditional: which half of the samples of a call is conditional, 0 or 1, for masks with a guidance difference.

    Yields:
        The number of computed calls by site name, updated during the run.
    """
    stored: dict[tuple[str, int], object] = {}
    computed: dict[str, int] = defaultdict(int)
    state = {"calls": 0, "step": 0, "ordinal": 0, "follows": False, "half": False}
    rows = {site.name: row for site, row in zip(mask.sites, mask.compute, strict=True)}
    call, served = caller(rows, stored, state, conditional), server(state, conditional)
    follow = follower(calls_per_step, mask.steps, state)

    def root(forward: Callable[..., Any], name: str) -> Callable[..., Any]:
        return lambda *args, **kwargs: call(forward, name, args, kwargs, follow(name, args, kwargs))

    def site(forward: Callable[..., Any], name: str) -> Callable[..., Any]:
        def compute_or_serve(*args, **kwargs):
            key = (name, state["ordinal"])
            if rows[name][state["step"]] or not state["follows"]:
                computed[name] += 1
                if state["half"]:
                    return forward(*args, **kwargs)
                stored[key] = forward(*args, **kwargs)
            return served(stored[key])

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

        return call

    with patched() as patch:
        for name in ("transformer", "transformer_2"):
            transformer = getattr(pipeline, name, None)
            if transformer is not None:
                patch(transformer, patched_call(transformer.forward))
        yield steps_computed
