"""Where the sites of a transformer are: one table entry per transformer class.

Sources: each model's block; for models of diffusers, `docs/architecture.md` names the version that was read.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from pabtune.records.errors import ModelError
from pabtune.records.sites import Kind, Site


@dataclass(frozen=True, slots=True, kw_only=True)
class SitePattern:
    """A site in every block of a list: `<blocks>.<layer>.<child>`; `feeders` are children that only serve it."""

    blocks: str
    child: str
    kind: Kind
    feeders: tuple[str, ...] = ()


def _stdit3_blocks(blocks: str, kind: Kind) -> tuple[SitePattern, ...]:
    return (
        SitePattern(blocks=blocks, child="attn", kind=kind, feeders=("norm1",)),
        SitePattern(blocks=blocks, child="cross_attn", kind="cross"),
        SitePattern(blocks=blocks, child="mlp", kind="mlp", feeders=("norm2",)),
    )


SITE_TABLE: Mapping[str, tuple[SitePattern, ...]] = {
    "STDiT3Transformer3DModel": (
        *_stdit3_blocks("spatial_blocks", "spatial"),
        *_stdit3_blocks("temporal_blocks", "temporal"),
    ),
}
"""Site patterns by class name of the transformer."""


def find_sites(transformer: nn.Module, name: str = "transformer") -> tuple[Site, ...]:
    """All sites of a transformer, in the order of its table entry, layer by layer.

    Args:
        transformer: the network.
        name: its name in the pipeline.

    Raises:
        ModelError: the class has no table entry, or the table does not fit the module.
    """
    patterns = SITE_TABLE.get(type(transformer).__name__)
    if patterns is None:
        known = ", ".join(SITE_TABLE)
        raise ModelError(f"no sites are known for {type(transformer).__name__}; known transformers: {known}")
    modules = dict(transformer.named_modules())
    sites = []
    for pattern in patterns:
        for layer in range(len(modules.get(pattern.blocks, ()))):
            block = f"{pattern.blocks}.{layer}"
            feeders = tuple(f"{block}.{feeder}" for feeder in pattern.feeders)
            sites.append(
                Site(
                    transformer=name,
                    path=f"{block}.{pattern.child}",
                    kind=pattern.kind,
                    layer=layer,
                    feeders=feeders,
                )
            )
    missing = [path for site in sites for path in (site.path, *site.feeders) if path not in modules]
    if missing or not sites:
        raise ModelError(
            f"{type(transformer).__name__} lacks the module {missing[0] if missing else patterns[0].blocks!r} of its "
            "site table; was it changed after loading?"
        )
    return tuple(sites)
