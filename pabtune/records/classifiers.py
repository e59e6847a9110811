"""A text classifier as plain data: which content class a prompt is of, by the words in it.

A multinomial logistic regression on the presence of words. Every decision is a sum that a person can check: the scores of the
words that stand in the prompt. It runs without any library, and gives the same answer in every process.
"""

import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from pabtune.records.errors import PolicyError

WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\d_\u3040-\u30ff\u3400-\u9fff]+")
"""A run of letters; in Chinese and Japanese, which set no spaces, a single character."""


def words_of(text: str) -> frozenset[str]:
    """The distinct words of a prompt, whatever their letters' case."""
    return frozenset(WORD.findall(unicodedata.normalize("NFC", text).casefold()))


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptClassifier:
    """Scores of content classes, in nats: what each word of a prompt adds to each of them.

    Attributes:
        bias: score of each class before any word.
        words: by class, what each word adds to its score if it stands in the prompt; a word that is left out adds nothing.
        margin: by how much the best class must lead the next one; with less the prompt is of no class that is known.
    """

    bias: Mapping[str, float]
    words: Mapping[str, Mapping[str, float]]
    margin: float

    def __post_init__(self) -> None:
        if len(self.bias) < 2 or set(self.bias) != set(self.words):
            raise PolicyError(
                f"a classifier needs a bias and words for each of two or more content classes, but has biases for "
                f"{', '.join(self.bias) or 'none'} and words for {', '.join(self.words) or 'none'}"
            )
        if not (math.isfinite(self.margin) and self.margin >= 0):
            raise PolicyError(f"the margin of a classifier must be 0 or more nats, but is {self.margin!r}")

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """The value of a checked document."""
        classes = document["classes"]
        return cls(
            bias={name: each["bias"] for name, each in classes.items()},
            words={name: each["words"] for name, each in classes.items()},
            margin=document["margin"],
        )

    def to_document(self) -> dict[str, Any]:
        """The same as JSON."""
        classes = {name: {"bias": self.bias[name], "words": dict(self.words[name])} for name in self.bias}
        return {"margin": self.margin, "classes": classes}

    def scores(self, prompt: str) -> dict[str, float]:
        """The score of each class for a prompt; their differences are logarithms of odds."""
        found = sorted(words_of(prompt))
        return {
            name: self.bias[name] + math.fsum(self.words[name].get(word, 0.0) for word in found) for name in self.bias
        }

    def content_of(self, prompt: str) -> str | None:
        """The content class of a prompt; None where no class leads clearly, or none of its words is known."""
        if not any(words_of(prompt) & set(own) for own in self.words.values()):
            return None
        scores = self.scores(prompt)
        best, following = sorted(scores, key=lambda name: -scores[name])[:2]
        return best if scores[best] - scores[following] >= self.margin else None

    def content_of_all(self, prompts: Sequence[str]) -> str | None:
        """The content class that all of these prompts are of; None where one is of no known class, or two disagree."""
        contents = {self.content_of(prompt) for prompt in prompts}
        return contents.pop() if len(contents) == 1 else None
