"""What pabtune knows of transformer classes: a card for each, one file per family.

A catalog is a value. Entry points take it as `catalog=`; to describe a class of your own, pass the shipped one with your card:

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
    """Cards by class name of the transformer.

    Attributes:
        cards: one for each class.
    """

    cards: Mapping[str, ModelCard] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "cards", MappingProxyType(dict(self.cards)))

    @classmethod
    def of(cls, *cards: ModelCard) -> Self:
        """The catalog of these cards; of two for one class, the last."""
        return cls({card.transformer: card for card in cards})

    def find(self, transformer: str) -> ModelCard | None:
        """The card of a class; None if there is none.

        Args:
            transformer: name of the class.
        """
        return self.cards.get(transformer)

    def with_card(self, card: ModelCard) -> Self:
        """A catalog that has this card too, in place of the one for the same class."""
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
"""The cards that are shipped."""


def find_card(transformer: str) -> ModelCard | None:
    """The shipped card of a class; None if there is none.

    Args:
        transformer: name of the class.
    """
    return CATALOG.find(transformer)
