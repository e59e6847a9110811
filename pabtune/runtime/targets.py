"""What can be intercepted: a pipeline, or a bare transformer that is driven through `cache_context`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from diffusers import DiffusionPipeline
from torch import nn

from pabtune.models.site_tables import SITE_TABLE, find_sites
from pabtune.records.errors import ModelError
from pabtune.records.files import digest
from pabtune.records.sites import Site


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The transformers to intercept, by name in the pipeline, and how to get at the noise scheduler."""

    transformers: Mapping[str, nn.Module]
    sites: tuple[Site, ...]
    scheduler: Callable[[], Any]

    @classmethod
    def of(cls, model: DiffusionPipeline | nn.Module) -> "Target":
        """The target that a pipeline or a transformer is.

        Raises:
            ModelError: nothing in it has known sites, or another cache is enabled on it.
        """
        if isinstance(model, DiffusionPipeline):
            modules = {name: part for name, part in model.components.items() if isinstance(part, nn.Module)}
            transformers = {name: part for name, part in modules.items() if type(part).__name__ in SITE_TABLE}
            if not transformers:
                found = ", ".join(f"{name}: {type(part).__name__}" for name, part in modules.items())
                raise ModelError(
                    f"{type(model).__name__} has no transformer with known sites; it has {found}; "
                    f"known transformers: {', '.join(SITE_TABLE)}"
                )
        else:
            transformers = {"transformer": model}
        for name, transformer in transformers.items():
            if getattr(transformer, "is_cache_enabled", False):
                raise ModelError(f"another cache is enabled on {name}; call {name}.disable_cache() first")
        sites = [site for name, transformer in transformers.items() for site in find_sites(transformer, name)]
        return cls(transformers=transformers, sites=tuple(sites), scheduler=lambda: getattr(model, "scheduler", None))

    @property
    def model_class(self) -> str:
        """Class name of the (first) transformer."""
        return type(next(iter(self.transformers.values()))).__name__

    def fingerprint(self) -> str:
        """Digest of every transformer's class and configuration and of the sites: what a policy must fit."""
        parts = [
            {
                "name": name,
                "class": type(transformer).__name__,
                "config": {
                    key: value for key, value in getattr(transformer, "config", {}).items() if not key.startswith("_")
                },
            }
            for name, transformer in self.transformers.items()
        ]
        return digest({"transformers": parts, "sites": [[site.name, site.kind] for site in self.sites]})
