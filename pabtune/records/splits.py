"""The split of prompts: to tune on, to validate with, and to test with.

A prompt's part is decided by its text alone, the same in every file, study and month. So what one search has seen is never
what a verdict rests on, whoever searched and whenever.
"""

import hashlib
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from pabtune.records.errors import PromptError
from pabtune.records.prompts import Prompt

Part = Literal["tune", "validate", "test"]
"""What a search is measured on; what finalists are compared on; what the verdict is on."""

PARTS: tuple[Part, ...] = get_args(Part)

UPPER_BOUNDS: Mapping[Part, float] = {"tune": 0.25, "validate": 0.4, "test": 1.0}
"""A quarter of all prompts to tune on, 15 % to validate with, the rest to test with: a verdict takes most of them. These
bounds and the hash must never change: prompts would move into parts where they were seen before."""


def split_of(text: str) -> Part:
    """The part of a prompt: by a hash of its text, whose letters' case and spacing do not matter.

    Args:
        text: the prompt.
    """
    digest = hashlib.sha256(normal_text(text).encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    return next(part for part in PARTS if place < UPPER_BOUNDS[part])


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Prompts of the three parts, each in the order in which they came."""

    tune: tuple[Prompt, ...]
    validate: tuple[Prompt, ...]
    test: tuple[Prompt, ...]

    def parts(self) -> dict[Part, tuple[Prompt, ...]]:
        """The parts by name."""
        return {"tune": self.tune, "validate": self.validate, "test": self.test}

    def of_content(self, content: str) -> "Split":
        """The prompts of one content class."""
        return Split(
            **{part: tuple(each for each in own if each.content == content) for part, own in self.parts().items()}
        )

    def counts(self) -> dict[str, dict[Part, int]]:
        """Numbers of prompts by content class and part."""
        contents = dict.fromkeys(each.content for own in self.parts().values() for each in own)
        return {
            content: {part: len(own) for part, own in self.of_content(content).parts().items()} for content in contents
        }


def split_prompts(prompts: Sequence[Prompt]) -> Split:
    """Sorts prompts into the three parts; of prompts with the same text the first one stays.

    Raises:
        PromptError: a part would be empty.
    """
    distinct: dict[str, Prompt] = {}
    for prompt in prompts:
        distinct.setdefault(normal_text(prompt.prompt), prompt)
    parts = {part: tuple(each for each in distinct.values() if split_of(each.prompt) == part) for part in PARTS}
    empty = [part for part, own in parts.items() if not own]
    if empty:
        raise PromptError(
            f"{len(distinct)} distinct prompts leave none to {empty[0]} on: each falls to tune (25 %), validate (15 %) or "
            "test (60 %) by a hash of its text; add some (`prompts shapes --part` writes captions of one part)"
        )
    return Split(**parts)


def in_chance_order(prompts: Sequence[Prompt]) -> list[Prompt]:
    """Prompts in an order that depends on their texts alone, as if drawn: what is seen first is like what comes later.

    A file may be sorted by theme; a verdict that may end early must not rest on its first pages. Those with the same text stay
    together, in their order.
    """

    def place(prompt: Prompt) -> bytes:
        return hashlib.sha256(f"order of {normal_text(prompt.prompt)}".encode()).digest()

    return sorted(prompts, key=place)


def normal_text(text: str) -> str:
    """The text with one form of each letter, in lower case, with single spaces: what is equal then is one prompt."""
    return " ".join(unicodedata.normalize("NFC", text).casefold().split())
