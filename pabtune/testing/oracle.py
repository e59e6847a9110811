"""An independent, plain implementation of broadcasting, as a reference for the engine, with which it shares no code.

It gets the number of model calls per step as an argument, counts calls, stores every computed output, and skips nothing but
the site itself.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from operator import attrgetter
from typing import Any

import torch
from diffusers import DiffusionPipeline

from pabtune.planning.masks import ComputeMask


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
    last_call: dict[tuple[str, int], tuple[int, torch.Size]] = {}
    computed: dict[str, int] = defaultdict(int)
    state = {"calls": 0, "step": 0, "ordinal": 0, "follows": False, "half": False}
    rows = {site.name: row for site, row in zip(mask.sites, mask.compute, strict=True)}
    undo = []
    call = caller(rows, stored, state, conditional)
    served = server(state, conditional)

    def patch_root(name: str) -> None:
        transformer = getattr(pipeline, name)
        forward = transformer.forward

        def root(*args, **kwargs):
            state["step"] = state["calls"] // calls_per_step % mask.steps
            state["ordinal"] = state["calls"] % calls_per_step
            state["calls"] += 1
            key = (name, state["ordinal"])
            shape = next(value.shape for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor))
            state["follows"] = last_call.get(key) == (state["step"] - 1, shape)
            last_call[key] = (state["step"], shape)
            return call(forward, name, args, kwargs, shape[0])

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
                if state["half"]:
                    return forward(*args, **kwargs)
                stored[key] = forward(*args, **kwargs)
            return served(stored[key])

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
