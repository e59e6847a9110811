"""Catalog of the known transformer classes: one card per class, one file per family.

A catalog is a value, which entry points take as `catalog=`. To describe a class of your own, add your card to the shipped one:

    pabtune.enable(pipeline, policy, catalog=pabtune.CATALOG.with_card(card))
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Self

from pabtune.catalog.allegro import ALLEGRO
from pabtune.catalog.card import Cut, FrameSplit, Guidance, ModelCard, SitePattern, TokenSplit
from pabtune.catalog.cogvideox import COGVIDEOX, CONSISID
from pabtune.catalog.cosmos import COSMOS
from pabtune.catalog.easyanimate import EASYANIMATE
from pabtune.catalog.hunyuan import HUNYUAN_FRAMEPACK, HUNYUAN_VIDEO, HUNYUAN_VIDEO_15
from pabtune.catalog.kandinsky import KANDINSKY_5
from pabtune.catalog.latte import LATTE, LATTE_T2V
from pabtune.catalog.ltx import LTX_2, LTX_VIDEO
from pabtune.catalog.minimax import MINIMAX_H3
from pabtune.catalog.mochi import MOCHI
from pabtune.catalog.motif import MOTIF_VIDEO
from pabtune.catalog.sana import SANA_VIDEO
from pabtune.catalog.stdit3 import STDIT3
from pabtune.catalog.wan import CHRONOEDIT, HELIOS, SKYREELS_V2, WAN, WAN_VACE

__all__ = [
    "CATALOG",
    "Catalog",
    "Cut",
    "FrameSplit",
    "Guidance",
    "ModelCard",
    "SitePattern",
    "TokenSplit",
    "find_card",
]


@dataclass(frozen=True, slots=True)
class Catalog:
    """Immutable mapping from class names of transformers to their cards.

    Attributes:
        cards: card of each class, by class name.
    """

    cards: Mapping[str, ModelCard] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "cards", MappingProxyType(dict(self.cards)))

    @classmethod
    def of(cls, *cards: ModelCard) -> Self:
        """Catalog of these cards; a later card replaces an earlier one for the same class."""
        return cls({card.transformer: card for card in cards})

    def find(self, transformer: str) -> ModelCard | None:
        """Card of a transformer class; None if there is none.

        Args:
            transformer: name of the class.
        """
        return self.cards.get(transformer)

    def with_card(self, card: ModelCard) -> Self:
        """Catalog with this card added, or in place of the one for the same class."""
        return type(self)({**self.cards, card.transformer: card})

    def __contains__(self, transformer: object) -> bool:
        return transformer in self.cards

    def __iter__(self) -> Iterator[ModelCard]:
        return iter(self.cards.values())

    def __len__(self) -> int:
        return len(self.cards)


CATALOG = Catalog.of(
    STDIT3,
    WAN,
    WAN_VACE,
    CHRONOEDIT,
    SKYREELS_V2,
    HELIOS,
    LTX_VIDEO,
    LTX_2,
    ALLEGRO,
    LATTE,
    LATTE_T2V,
    SANA_VIDEO,
    HUNYUAN_VIDEO,
    HUNYUAN_FRAMEPACK,
    HUNYUAN_VIDEO_15,
    COGVIDEOX,
    CONSISID,
    MOCHI,
    EASYANIMATE,
    MOTIF_VIDEO,
    MINIMAX_H3,
    COSMOS,
    KANDINSKY_5,
)
"""The shipped cards."""


def find_card(transformer: str) -> ModelCard | None:
    """Shipped card of a transformer class; None if there is none.

    Args:
        transformer: name of the class.
    """
    return CATALOG.find(transformer)
