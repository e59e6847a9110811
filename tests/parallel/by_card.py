"""How each small pipeline is split, according to the cards of its transformers."""

from functools import cache

from pabtune.catalog import ModelCard, find_card
from pabtune.parallel.plans import find_plan
from tests.pipelines.cases import CASES, COUNTED, transformers_of

LIKE_OTHERS = ("chronoedit-reasoning", "cogvideox-dpm", "wan-2.2-image")
"""Cases of the same class as another case, and split like it; left out to save time."""


@cache
def _card_and_split(name: str) -> tuple[ModelCard | None, bool]:
    pipeline = CASES[name].build()
    parts = transformers_of(pipeline)
    is_split = all(find_plan(part, type(pipeline).__name__) is not None for part in parts)
    return find_card(type(parts[0]).__name__), is_split


def token_cases() -> list[str]:
    """Cases whose tokens are split."""
    return [name for name in CASES if name not in LIKE_OTHERS and _card_and_split(name)[1]]


def token_classes() -> dict[str, str]:
    """For each class whose tokens are split, one case."""
    first: dict[str, str] = {}
    for name in token_cases():
        first.setdefault(_card_and_split(name)[0].transformer, name)
    return first


def sequential_cases() -> list[str]:
    """Cases whose guidance branches are computed by different processes, one call each, and whose tokens are not split."""
    return [name for name in COUNTED if _order(name) == "sequential" and not _card_and_split(name)[1]]


def has_whole_branches(name: str) -> bool:
    """Whether a case has one guidance branch, or reads the first before it asks for the second."""
    is_guided = len({branch for _, branch in CASES[name].branches}) > 1
    return _order(name) == "interleaved" or (_order(name) == "sequential" and not is_guided)


def _order(name: str) -> str:
    return _card_and_split(name)[0].guidance.order
