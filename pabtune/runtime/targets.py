"""The transformers of a pipeline, or a bare transformer driven through `cache_context`, as a target of interception."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from diffusers import DiffusionPipeline, ModularPipeline
from torch import nn

from pabtune.catalog import CATALOG, Catalog
from pabtune.libraries.torch_internals import unwrap_compiled
from pabtune.models.sites import SiteMap, find_sites
from pabtune.planning.units import units_of
from pabtune.records.errors import ModelError
from pabtune.records.files import digest
from pabtune.records.policies import Policy
from pabtune.records.sites import UNITS, Site

SET_BY_CALLS = ("num_frame_per_block",)
"""Configuration keys of transformers that pipelines write during a run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The transformers to intercept, by name in the pipeline.

    Attributes:
        callers: the modules that the pipeline calls: the wrapper if a transformer went through `torch.compile`.
        transformers: the unwrapped transformers.
        maps: sites and card of each transformer.
        sites: sites of all transformers.
        pipeline: the pipeline; None for a bare transformer.
    """

    callers: Mapping[str, nn.Module]
    transformers: Mapping[str, nn.Module]
    maps: Mapping[str, SiteMap]
    sites: tuple[Site, ...]
    pipeline: DiffusionPipeline | None

    @classmethod
    def of(cls, model: DiffusionPipeline | nn.Module, catalog: Catalog = CATALOG) -> "Target":
        """The target for a pipeline or a transformer.

        Args:
            model: diffusers pipeline or transformer.
            catalog: cards of known transformer classes.

        Raises:
            ModelError: the model has no known sites, or another cache is enabled on it.
        """
        callers = _transformers(model, catalog)
        transformers = {name: unwrap_compiled(caller) for name, caller in callers.items()}
        for name, transformer in transformers.items():
            if getattr(transformer, "is_cache_enabled", False):
                raise ModelError(f"another cache is enabled on {name}; call {name}.disable_cache() first")
        maps = {name: find_sites(transformer, name, catalog) for name, transformer in transformers.items()}
        sites = [site for each in maps.values() for site in each.sites]
        return cls(
            callers=callers,
            transformers=transformers,
            maps=maps,
            sites=tuple(sites),
            pipeline=model if isinstance(model, DiffusionPipeline) else None,
        )

    def under(self, policy: Policy, content: str | None = None) -> "Target":
        """This target with the whole calls, blocks and stacks of a policy's rules added to its sites.

        Args:
            policy: the policy.
            content: content class whose rules are used; None = the policy's general rules.

        Raises:
            PolicyError: the blocks of a stack rule do not form a stack.
        """
        return replace(self, sites=(*self.sites, *units_of(policy, self.sites, content)))

    @classmethod
    def joined(cls, targets: Iterable["Target"]) -> "Target":
        """One target with the sites of several for the same model, each once."""
        first, *others = targets
        return replace(first, sites=tuple(dict.fromkeys(site for each in (first, *others) for site in each.sites)))

    @property
    def is_on_cuda(self) -> bool:
        """Whether a transformer has parameters on a CUDA device."""
        return any(parameter.is_cuda for part in self.transformers.values() for parameter in part.parameters())

    @property
    def model_class(self) -> str:
        """Class name of the (first) transformer."""
        return type(next(iter(self.transformers.values()))).__name__

    def config(self) -> dict[str, dict[str, Any]]:
        """Configuration of each transformer as JSON values, without keys that pipelines write during a run."""
        return {
            name: {
                key: json.loads(json.dumps(value, default=str))
                for key, value in getattr(transformer, "config", {}).items()
                if not key.startswith("_") and key not in SET_BY_CALLS
            }
            for name, transformer in self.transformers.items()
        }

    def fingerprint(self) -> str:
        """Digest of the transformers' classes, configurations and sites, by which policies are matched to models."""
        config = self.config()
        parts = [
            {
                "name": name,
                "class": type(transformer).__name__,
                "config": config[name],
            }
            for name, transformer in self.transformers.items()
        ]
        return digest(
            {"transformers": parts, "sites": [[site.name, site.kind] for site in self.sites if site.kind not in UNITS]}
        )


def _transformers(model: DiffusionPipeline | nn.Module, catalog: Catalog) -> dict[str, nn.Module]:
    """The transformers of a model by name: components with a card, or else components named `transformer…`."""
    if isinstance(model, nn.Module):
        return {"transformer": model}
    if isinstance(model, ModularPipeline):
        raise ModelError(
            f"{type(model).__name__} is a ModularPipeline of diffusers, which pabtune does not support; load the model as a "
            "DiffusionPipeline, or pass its transformer and drive that by hand"
        )
    if not isinstance(model, DiffusionPipeline):
        raise ModelError(
            f"a diffusers pipeline or a transformer is needed, not {type(model).__name__}; pass its transformer"
        )
    modules = {name: part for name, part in model.components.items() if isinstance(part, nn.Module)}
    classes = {name: type(unwrap_compiled(part)).__name__ for name, part in modules.items()}
    with_card = {name: part for name, part in modules.items() if classes[name] in catalog}
    named = {name: part for name, part in modules.items() if name.startswith("transformer")}
    if not with_card and not named:
        components = ", ".join(f"{name}: {type(part).__name__}" for name, part in modules.items())
        raise ModelError(
            f"{type(model).__name__} has no transformer with known sites; it has {components}; "
            f"known transformers: {', '.join(catalog.cards)}"
        )
    return with_card or named
