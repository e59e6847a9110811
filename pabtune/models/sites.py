"""Finding the sites of a transformer, by the card of its class or, without one, by its structure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import nn

from pabtune.catalog import CATALOG, Catalog, ModelCard, SitePattern
from pabtune.records.errors import ModelError
from pabtune.records.sites import Kind, Site

TEXT_SIDE = re.compile(r"refiner|text|context|caption|encoder")
"""Lists of blocks with these words in their paths process the prompt, not the video."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteMap:
    """The sites of one transformer and the source of that knowledge.

    Attributes:
        sites: all sites, in the order of their patterns, layer by layer.
        card: card of the class; None if the sites were guessed from the structure.
        notes: for guessed sites, the evidence for each kind.
    """

    sites: tuple[Site, ...]
    card: ModelCard | None
    notes: tuple[str, ...] = ()

    @property
    def source(self) -> Literal["catalog", "structure"]:
        """Whether the sites come from the catalog or were guessed from the structure."""
        return "structure" if self.card is None else "catalog"


def find_sites(transformer: nn.Module, name: str = "transformer", catalog: Catalog = CATALOG) -> SiteMap:
    """Finds all sites of a transformer.

    Args:
        transformer: the network.
        name: its name in the pipeline.
        catalog: cards of known transformer classes.

    Raises:
        ModelError: the class has no card and nothing in it looks like a site, or its card does not fit the module.
    """
    class_name = type(transformer).__name__
    card = catalog.find(class_name)
    if card is not None:
        return SiteMap(sites=_expand(transformer, name, card.sites), card=card)
    guesses = guess_patterns(transformer)
    if not guesses:
        raise ModelError(
            f"no sites are known for {class_name}, and no list of its blocks has attention or feed-forward modules that "
            f"could be told by their names; describe them with card = pabtune.ModelCard(transformer={class_name!r}, sites=…) "
            "and pass catalog=pabtune.CATALOG.with_card(card)"
        )
    sites = _expand(transformer, name, [pattern for pattern, _ in guesses])
    return SiteMap(sites=sites, card=None, notes=tuple(note for _, note in guesses))


def guess_patterns(transformer: nn.Module) -> list[tuple[SitePattern, str]]:
    """Guesses patterns for a class without a card, each with its evidence in words. Feeders are never guessed."""
    guesses = []
    for path, blocks in transformer.named_modules():
        if not isinstance(blocks, nn.ModuleList) or len(blocks) == 0 or TEXT_SIDE.search(path):
            continue
        for child, module in blocks[0].named_children():
            guess = _guess_kind(path, child, module)
            if guess is not None:
                pattern = SitePattern(blocks=path, child=child, kind=guess[0])
                guesses.append((pattern, f"{path}.*.{child}: {guess[0]} ({guess[1]})"))
    return guesses


def _guess_kind(path: str, child: str, module: nn.Module) -> tuple[Kind, str] | None:
    is_attention = hasattr(module, "to_q") or hasattr(module, "to_qkv") or "attention" in type(module).__name__.lower()
    if is_attention:
        marked = getattr(module, "is_cross_attention", None)
        if marked or re.search(r"cross|attn2|encoder_attn", child):
            return "cross", "sure: it says so" if marked else "likely: by its name"
        if re.search(r"temporal|time|frame", path):
            return "temporal", "likely: its list is named temporal"
        if re.search(r"spatial", path):
            return "spatial", "likely: its list is named spatial"
        return "full", "unsure: an attention that is neither marked nor named otherwise"
    if re.fullmatch(r"(\w+_)?(mlp|ff|ffn|feed_forward)(_\w+)?", child):
        return "mlp", "likely: by its name"
    return None


def _length(path: str, blocks: nn.Module) -> int:
    """Number of blocks in a list.

    Raises:
        ModelError: it is no list.
    """
    if not isinstance(blocks, nn.ModuleList | nn.Sequential):
        raise ModelError(f"the module {path!r} that a card names is no list of blocks, but {type(blocks).__name__}")
    return len(blocks)


def _expand(transformer: nn.Module, name: str, patterns: Sequence[SitePattern]) -> tuple[Site, ...]:
    """One site for each layer of each pattern.

    Raises:
        ModelError: the transformer lacks a module that a pattern names.
    """
    modules = {path: module for path, module in transformer.named_modules() if module is not None}

    def module_at(path: str) -> nn.Module:
        if path not in modules:
            raise ModelError(
                f"{type(transformer).__name__} lacks the module {path!r} that its card names; was it changed after loading?"
            )
        return modules[path]

    sites = []
    for pattern in patterns:
        before = sum(_length(path, module_at(path)) for path in pattern.after)
        if pattern.optional and pattern.blocks not in modules:
            continue
        for layer in range(_length(pattern.blocks, module_at(pattern.blocks))):
            block = f"{pattern.blocks}.{layer}"
            path = f"{block}.{pattern.child}" if pattern.child else block
            if pattern.optional and path not in modules:
                continue
            feeders = tuple(f"{block}.{feeder}" for feeder in pattern.feeders)
            for each in (path, *feeders):
                module_at(each)
            sites.append(
                Site(
                    transformer=name,
                    path=path,
                    kind=pattern.kind,
                    layer=before + layer,
                    block=block if pattern.child else "",
                    feeders=feeders,
                )
            )
    if not sites:
        raise ModelError(f"{type(transformer).__name__} has no blocks in {patterns[0].blocks!r}")
    return tuple(sites)
