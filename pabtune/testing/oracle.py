"""A second, plain implementation of broadcasting, to hold the engine against: nothing of it is shared.

It knows from the case how many model calls a step has, counts calls, keeps every computed output by hand, and skips
nothing but the site itself.
"""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from diffusers import DiffusionPipeline

from pabtune.planning.masks import ComputeMask


@contextmanager
def broadcast_by_hand(pipeline: DiffusionPipeline, mask: ComputeMask, calls_per_step: int) -> Iterator[dict[str, int]]:
    """Runs the pipeline's sites by a compute mask; yields the number of computed calls per site."""
    stored: dict[tuple[str, int], object] = {}
    last_call: dict[tuple[str, int], tuple[int, torch.Size]] = {}
    computed: dict[str, int] = defaultdict(int)
    place = {"calls": 0, "step": 0, "ordinal": 0, "follows": False}
    rows = {site.name: row for site, row in zip(mask.sites, mask.compute, strict=True)}
    undo = []

    def patch_root(name: str) -> None:
        transformer = getattr(pipeline, name)
        forward = transformer.forward

        def root(*args, **kwargs):
            place["step"] = place["calls"] // calls_per_step % mask.steps
            place["ordinal"] = place["calls"] % calls_per_step
            place["calls"] += 1
            key = (name, place["ordinal"])
            shape = next(value.shape for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor))
            place["follows"] = last_call.get(key) == (place["step"] - 1, shape)
            last_call[key] = (place["step"], shape)
            return forward(*args, **kwargs)

        transformer.forward = root
        undo.append(lambda: vars(transformer).pop("forward"))

    def patch_site(name: str, path: str) -> None:
        module = getattr(pipeline, name).get_submodule(path)
        forward = module.forward

        def site(*args, **kwargs):
            full_name = f"{name}.{path}"
            key = (full_name, place["ordinal"])
            if rows[full_name][place["step"]] or not place["follows"]:
                computed[full_name] += 1
                stored[key] = forward(*args, **kwargs)
            return stored[key]

        module.forward = site
        undo.append(lambda: vars(module).pop("forward"))

    for site in mask.sites:
        patch_site(site.transformer, site.path)
    for name in dict.fromkeys(site.transformer for site in mask.sites):
        patch_root(name)
    try:
        yield computed
    finally:
        for step in undo:
            step()
