"""Translation between scenes of the embedded world and plain English captions, in both directions."""

import re
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from pabtune.models.shapes.world import Scene
from pabtune.records.errors import PromptError

WORDS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "shape": {
        "circle": ("circle", "disc"),
        "square": ("square",),
        "triangle": ("triangle",),
        "cross": ("cross", "plus"),
    },
    "color": {
        "red": ("red",),
        "yellow": ("yellow",),
        "green": ("green",),
        "cyan": ("cyan", "turquoise"),
        "blue": ("blue",),
        "pink": ("pink", "magenta"),
    },
    "size": {
        "small": ("small", "little", "tiny"),
        "medium": ("medium",),
        "large": ("large", "big", "huge"),
    },
    "motion": {
        "still": ("still", "motionless"),
        "left": ("left", "leftwards"),
        "right": ("right", "rightwards"),
        "up": ("up", "upwards", "rising", "rises"),
        "down": ("down", "downwards", "sinking", "sinks"),
        "bouncing": ("bouncing", "bounces"),
        "rotating": ("rotating", "rotates", "spinning", "spins"),
    },
    "speed": {
        "slow": ("slowly", "gently", "slow"),
        "fast": ("quickly", "fast", "rapidly"),
    },
    "background": {
        "black": ("black",),
        "gray": ("gray", "grey"),
        "white": ("white",),
        "striped": ("striped", "stripes"),
    },
}
"""The words that name each value of each attribute."""

FILLERS = frozenset(
    "a an the that which it is to on in of and over with against background backdrop moves moving slides "
    "sliding drifts drifting travels travelling stands standing stays rests towards toward side pale video clip shows".split()
)
"""Words that are accepted but carry no information about the scene."""

MEANINGS: Mapping[str, tuple[str, str]] = {
    word: (attribute, value) for attribute, values in WORDS.items() for value, words in values.items() for word in words
}
"""Attribute and value that each word names."""

VOCABULARY: tuple[str, ...] = (*sorted(MEANINGS), *sorted(FILLERS))
"""Every word that the embedded text encoder knows, in the order of its table."""

OMISSION_SHARE: Mapping[str, float] = {"size": 0.2, "background": 0.15, "speed": 0.1, "motion": 0.04}
"""Fraction of training captions that leave each attribute open."""


def split_words(prompt: str) -> list[str]:
    """Lower-case words of a prompt, separated by anything but letters."""
    return re.findall(r"[^\W\d_]+", prompt.lower())


def parse(prompt: str) -> Scene:
    """The scene that a prompt describes; attributes that it does not name stay open.

    Raises:
        PromptError: the prompt is empty, has an unknown word, or names two values of one attribute.
    """
    words = split_words(prompt)
    if not words:
        raise PromptError(
            f"the prompt {prompt!r} has no words; say for example: 'a red circle moves slowly to the left'"
        )
    unknown = [word for word in words if word not in MEANINGS and word not in FILLERS]
    if unknown:
        vocabulary = "; ".join(f"{attribute}: {', '.join(values)}" for attribute, values in WORDS.items())
        raise PromptError(
            f"unknown word {unknown[0]!r} in the prompt {prompt!r}; the model `shapes` knows {vocabulary}"
        )
    scene = Scene()
    for word in words:
        if word not in MEANINGS:
            continue
        attribute, value = MEANINGS[word]
        named = getattr(scene, attribute)
        if named not in (None, value):
            raise PromptError(f"the prompt {prompt!r} names two values of {attribute}: {named!r} and {value!r}")
        scene = replace(scene, **{attribute: value})
    if (scene.shape, scene.motion) == ("circle", "rotating"):
        raise PromptError(
            f"the prompt {prompt!r}: a circle that rotates looks like one that is still; take another shape"
        )
    return scene


def loosen(scene: Scene, rng: np.random.Generator) -> Scene:
    """The scene with some attributes left open at random, as in training captions."""
    left_open = {attribute for attribute, share in OMISSION_SHARE.items() if rng.random() < share}
    if "motion" in left_open:
        left_open.add("speed")
    return replace(scene, **dict.fromkeys(left_open))


def describe(scene: Scene, rng: np.random.Generator) -> str:
    """A randomly worded caption for a scene with a shape and a color; `parse` recovers the scene from it."""

    def word(attribute: str) -> str:
        value = getattr(scene, attribute)
        return str(rng.choice(WORDS[attribute][value])) if value else ""

    adverb = str(rng.choice(WORDS["speed"][scene.speed][:2])) if scene.speed else ""
    thing = " ".join(filter(None, ["a", word("size"), word("color"), word("shape")]))
    action = _action(scene.motion, adverb, rng)
    if scene.background == "striped":
        place = str(rng.choice(["on a striped background", "over stripes"]))
    elif scene.background:
        place = str(rng.choice(["on a {} background", "on {}", "against a {} backdrop"])).format(word("background"))
    else:
        place = ""
    orders = ([thing, action, place], [place + "," if place else "", thing, action])
    return " ".join(filter(None, orders[rng.integers(len(orders))]))


def _action(motion: str | None, adverb: str, rng: np.random.Generator) -> str:
    verbs = ["moves", "slides", "drifts", "travels"]
    if motion is None:
        return f"moves {adverb}" if adverb else ""
    if motion == "still":
        return str(rng.choice(["stands still", "stays still", "is motionless", "rests motionless"]))
    if motion in ("left", "right"):
        where = str(rng.choice([f"to the {motion}", motion, f"{motion}wards", f"towards the {motion}"]))
        phrase = [str(rng.choice(verbs)), where]
    elif motion in ("up", "down"):
        single = {"up": "rises", "down": "sinks"}[motion]
        where = str(rng.choice([motion, f"{motion}wards"]))
        phrase = [single] if rng.random() < 0.3 else [str(rng.choice(verbs)), where]
    else:
        phrase = [str(rng.choice([word for word in WORDS["motion"][motion] if word.endswith("s")]))]
    position = rng.integers(2) if adverb else 0
    return " ".join([adverb, *phrase] if adverb and position else [*phrase, *([adverb] if adverb else [])])
