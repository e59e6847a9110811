"""An independent, plain implementation of broadcasting, as a reference for the engine, with which it shares no code.

It gets the number of model calls per step as an argument, counts calls, stores every computed output, and skips nothing but
the site itself.
"""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from diffusers import DiffusionPipeline

from pabtune.planning.masks import ComputeMask


@contextmanager
def broadcast_by_hand(pipeline: DiffusionPipeline, mask: ComputeMask, calls_per_step: int) -> Iterator[dict[str, int]]:
    """Patches a pipeline's sites to follow a compute mask inside a `with` block.

    Args:
        pipeline: the pipeline, or any object with its transformers as attributes.
        mask: the compute mask.
        calls_per_step: transformer calls per denoising step.

    Yields:
        The number of computed calls by site name, updated during the run.
    """
    stored: dict[tuple[str, int], object] = {}
    last_call: dict[tuple[str, int], tuple[int, torch.Size]] = {}
    computed: dict[str, int] = defaultdict(int)
    state = {"calls": 0, "step": 0, "ordinal": 0, "follows": False}
    rows = {site.name: row for site, row in zip(mask.sites, mask.compute, strict=True)}
    undo = []

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
            return forward(*args, **kwargs)

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
