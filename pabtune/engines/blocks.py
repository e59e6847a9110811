"""Which blocks a transformer has, from its card and its configuration, without the model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pabtune.catalog import CATALOG, Catalog
from pabtune.engines.engine import Engine
from pabtune.planning.rule_sites import MOST_LAYERS
from pabtune.records.errors import PolicyError
from pabtune.records.sites import Site

SIZES: Mapping[str, str] = {
    "blocks": "num_layers",
    "transformer_blocks": "num_layers",
    "temporal_transformer_blocks": "num_layers",
    "single_transformer_blocks": "num_single_layers",
    "visual_transformer_blocks": "num_visual_blocks",
    "spatial_blocks": "depth",
    "temporal_blocks": "depth",
}
"""Lists of blocks, and the key of a configuration that holds the number of their blocks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockList:
    """A list of blocks.

    Attributes:
        path: in the transformer.
        first: layer of its first block.
        count: number of its blocks.
    """

    path: str
    first: int
    count: int

    @property
    def layers(self) -> range:
        """Layers of its blocks."""
        return range(self.first, self.first + self.count)

    def sites(self, transformer: str) -> tuple[Site, ...]:
        """One site in each block."""
        return tuple(
            Site(transformer=transformer, path=f"{block}.attn", kind="full", layer=layer, block=block)
            for layer in self.layers
            for block in [f"{self.path}.{layer - self.first}"]
        )


def block_lists(
    model: str | None, config: Mapping[str, Any], counts: Sequence[int] = (), catalog: Catalog = CATALOG
) -> tuple[BlockList, ...] | None:
    """The lists of blocks of a transformer class; None = what is known of it does not tell.

    Args:
        model: name of the class.
        config: its configuration.
        counts: numbers of blocks of each list, as the user says; empty = those of the configuration.
        catalog: cards of the classes.

    Raises:
        PolicyError: the user's numbers are not one for each list.
    """
    card = catalog.find(model or "")
    patterns = {} if card is None else {each.blocks: each for each in card.sites if each.child}
    paths = list(patterns) or ["blocks"]
    if counts and len(counts) != len(paths):
        raise PolicyError(
            f"{model or 'the model'} has {len(paths)} lists of blocks ({', '.join(paths)}), but --layers has {len(counts)} "
            "numbers; say one for each"
        )
    sizes: list[Any] = list(counts) or [config.get(SIZES.get(path, "")) for path in paths]
    if not (counts or card) or not all(isinstance(size, int) and 0 < size <= MOST_LAYERS for size in sizes):
        return None
    by_path = dict(zip(paths, sizes, strict=True))
    return tuple(
        BlockList(
            path=path,
            first=sum(by_path[earlier] for earlier in (patterns[path].after if path in patterns else ())),
            count=count,
        )
        for path, count in by_path.items()
    )


def held_layers(engine: Engine, lists: Sequence[BlockList]) -> tuple[int, ...]:
    """The layers that an engine with masks holds, rising: of each list all, or all but the first.

    Args:
        engine: the engine.
        lists: of blocks of a transformer.
    """
    skipped = 0 if engine.held == "all" else 1
    return tuple(sorted({layer for each in lists for layer in each.layers[skipped:]}))
