"""Where the sites of a transformer are: one table entry per transformer class.

Read from each class's block in diffusers 0.42.1. A feeder is named only where nothing but its site reads it: the norms of
blocks that take their gates from the norm itself (AdaLayerNormZero and its kin) must run.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from pabtune.records.sites import Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class SitePattern:
    """A site in every block of a list: `<blocks>.<layer>.<child>`.

    Attributes:
        blocks: path of the list of blocks.
        child: path of the site inside a block; empty if the item of the list is the site.
        kind: what the site computes.
        feeders: children of the block that only serve the site.
        after: lists of blocks that run before this one; its layers are counted on from theirs.
        optional: blocks may lack it.
        state: names of arguments; a call that is given one of them has an effect besides its output and always computes.
    """

    blocks: str
    child: str
    kind: Kind
    feeders: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    optional: bool = False
    state: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.state and self.feeders:
            raise ValueError("a site with state has no feeders: they run before its arguments are known")


def _block(
    blocks: str, after: tuple[str, ...] = (), optional: tuple[str, ...] = (), **children: tuple[str, ...] | str
) -> tuple[SitePattern, ...]:
    """Patterns of one list: `child=kind` or `child=(kind, feeder, …)`."""
    patterns = []
    for child, what in children.items():
        kind, *feeders = (what,) if isinstance(what, str) else what
        patterns.append(
            SitePattern(
                blocks=blocks, child=child, kind=kind, feeders=tuple(feeders), after=after, optional=child in optional
            )
        )
    return tuple(patterns)


_WAN = _block("blocks", attn1=("full", "norm1"), attn2=("cross", "norm2"), ffn=("mlp", "norm3"))
_PIXART = {"attn1": ("full", "norm1"), "attn2": "cross", "ff": ("mlp", "norm2")}
_HUNYUAN_DUAL = {"attn": ("full", "norm1.norm", "norm1_context.norm"), "ff": ("mlp", "norm2")}
_HUNYUAN_DUAL |= {"ff_context": ("mlp", "norm2_context")}
_HUNYUAN = (
    *_block("transformer_blocks", **_HUNYUAN_DUAL),
    *_block("single_transformer_blocks", after=("transformer_blocks",), attn="full"),
)
_LATTE = (
    *_block("transformer_blocks", attn1=("spatial", "norm1"), attn2="cross", ff=("mlp", "norm2")),
    *_block("temporal_transformer_blocks", attn1=("temporal", "norm1"), ff=("mlp", "norm2")),
)
_COGVIDEOX = {"attn1": ("full", "norm1.norm"), "ff": ("mlp", "norm2.norm")}

SITE_TABLE: Mapping[str, tuple[SitePattern, ...]] = {
    "STDiT3Transformer3DModel": (
        *_block("spatial_blocks", attn=("spatial", "norm1"), cross_attn="cross", mlp=("mlp", "norm2")),
        *_block("temporal_blocks", attn=("temporal", "norm1"), cross_attn="cross", mlp=("mlp", "norm2")),
    ),
    "WanTransformer3DModel": _WAN,
    "WanVACETransformer3DModel": (
        *_WAN,
        *_block("vace_blocks", attn1=("full", "norm1"), attn2=("cross", "norm2"), ffn=("mlp", "norm3")),
    ),
    "ChronoEditTransformer3DModel": _WAN,
    "SkyReelsV2Transformer3DModel": _WAN,
    "HeliosTransformer3DModel": _WAN,
    "LTXVideoTransformer3DModel": _block("transformer_blocks", **_PIXART),
    "LTX2VideoTransformer3DModel": _block(
        "transformer_blocks",
        attn1=("full", "norm1"), audio_attn1=("full", "audio_norm1"), attn2=("cross", "norm2"),
        audio_attn2=("cross", "audio_norm2"), audio_to_video_attn="cross", video_to_audio_attn="cross",
        ff=("mlp", "norm3"), audio_ff=("mlp", "audio_norm3"),
    ),
    "AllegroTransformer3DModel": _block("transformer_blocks", **_PIXART),
    "LatteTransformer3DModel": _LATTE,
    "LatteT2VTransformer3DModel": _LATTE,
    "SanaVideoTransformer3DModel": _block("transformer_blocks", attn1=("full", "norm1"), attn2="cross", ff="mlp"),
    "HunyuanVideoTransformer3DModel": _HUNYUAN,
    "HunyuanVideoFramepackTransformer3DModel": _HUNYUAN,
    "HunyuanVideo15Transformer3DModel": _block("transformer_blocks", **_HUNYUAN_DUAL),
    "CogVideoXTransformer3DModel": _block("transformer_blocks", **_COGVIDEOX),
    "ConsisIDTransformer3DModel": (
        *_block("transformer_blocks", **_COGVIDEOX),
        SitePattern(blocks="perceiver_cross_attention", child="", kind="cross", optional=True),
    ),
    "MochiTransformer3DModel": _block(
        "transformer_blocks", optional=("ff_context",), attn1=("full", "norm1.norm"), ff=("mlp", "norm3"),
        ff_context=("mlp", "norm3_context"),
    ),
    "EasyAnimateTransformer3DModel": _block(
        "transformer_blocks", optional=("txt_ff",), attn1=("full", "norm1.norm"), ff="mlp", txt_ff="mlp"
    ),
    "MotifVideoTransformer3DModel": (
        *_block(
            "transformer_blocks", optional=("cross_attn",), attn=("full", "norm1.norm"), cross_attn="cross",
            ff=("mlp", "norm2"), ff_context=("mlp", "norm2_context"),
        ),
        *_block(
            "single_transformer_blocks", after=("transformer_blocks",), optional=("cross_attn",), attn="full",
            cross_attn="cross",
        ),
    ),
    "MiniMaxH3Transformer3DModel": _block("transformer_blocks", attn=("full", "norm1"), ff=("mlp", "norm2")),
    "CosmosTransformer3DModel": _block("transformer_blocks", attn1="full", attn2="cross", ff="mlp"),
    "Kandinsky5Transformer3DModel": _block(
        "visual_transformer_blocks",
        self_attention=("full", "self_attention_norm"), cross_attention=("cross", "cross_attention_norm"),
        feed_forward=("mlp", "feed_forward_norm"),
    ),
}  # fmt: skip
"""Site patterns by class name of the transformer."""

_registered: dict[str, tuple[SitePattern, ...]] = {}


def register_sites(transformer_class: type | str, *patterns: SitePattern) -> None:
    """Makes a transformer of one's own known; an entry for a known class replaces the table's.

        pabtune.register_sites(
            MyTransformer3DModel,
            SitePattern(blocks="blocks", child="attn", kind="full", feeders=("norm1",)),
            SitePattern(blocks="blocks", child="cross_attn", kind="cross"),
        )

    Args:
        transformer_class: the class or its name.
        patterns: its sites, in the order in which a block calls them.

    Raises:
        ValueError: no patterns.
    """
    if not patterns:
        raise ValueError("at least one pattern is needed; see pabtune.SitePattern")
    name = transformer_class if isinstance(transformer_class, str) else transformer_class.__name__
    _registered[name] = patterns


def known_patterns() -> Mapping[str, tuple[SitePattern, ...]]:
    """The table, with what was registered."""
    return {**SITE_TABLE, **_registered}
