"""A classifier of first steps as plain data: which content class a run is of, by a few numbers of its first, computed steps.

A linear rule like that for prompts (`records/classifiers.py`): the score of a class is its bias and a weight for each number.
Knows numbers and classes; knows nothing of latents, from which `runtime/first_steps.py` takes the numbers.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from pabtune.records.errors import PolicyError
from pabtune.records.rules import Rule, counted_steps

NUMBERS = ("size", "step", "spread", "half")
"""What may be measured after a step, each the logarithm of a ratio of squared sizes. The change of the latents since the first
step, less its part along the first noise, shows the video that is predicted:

- `size`: it, to the first noise;
- `step`: the differences between its neighbouring frames, to it;
- `spread`: it less its mean over frames, to it;
- `half`: the difference between the means of its two halves, to it.
"""

OF_FRAMES = ("step", "spread", "half")
"""Numbers that need an axis of frames."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstSteps:
    """Scores of content classes, in nats, by numbers of the first steps.

    Attributes:
        steps: how many first steps compute, whatever the class; then the class is decided.
        frame_axis: axis of the latents that holds frames; None = no numbers of frames.
        bias: score of each class before any number.
        weights: by class, what each number adds to its score: `NAME@STEPS`, such as `spread@2`, after so many steps.
        margin: by how much the best class must lead the next one; with less the run is of no class that is known.
    """

    steps: int
    frame_axis: int | None
    bias: Mapping[str, float]
    weights: Mapping[str, Mapping[str, float]]
    margin: float

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise PolicyError(f"first_steps: at least 1 step must compute, but `steps` is {self.steps!r}")
        if len(self.bias) < 2 or set(self.bias) != set(self.weights):
            raise PolicyError(
                f"first_steps needs a bias and weights for each of two or more content classes, but has biases for "
                f"{', '.join(self.bias) or 'none'} and weights for {', '.join(self.weights) or 'none'}"
            )
        if not (math.isfinite(self.margin) and self.margin >= 0):
            raise PolicyError(f"the margin of first_steps must be 0 or more nats, but is {self.margin!r}")
        for number in self.numbers:
            name, step = parse_number(number)
            if step > self.steps:
                raise PolicyError(
                    f"first_steps: {number!r} is known after {step} steps, but the class is told after {self.steps}"
                )
            if name in OF_FRAMES and self.frame_axis is None:
                raise PolicyError(f"first_steps: {number!r} is of frames; say which axis holds them (`frame_axis`)")

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """The value of a checked document."""
        classes = document["classes"]
        return cls(
            steps=document["steps"],
            frame_axis=document.get("frame_axis"),
            bias={name: each["bias"] for name, each in classes.items()},
            weights={name: each["weights"] for name, each in classes.items()},
            margin=document["margin"],
        )

    def to_document(self) -> dict[str, Any]:
        """The same as JSON."""
        classes = {name: {"bias": self.bias[name], "weights": dict(self.weights[name])} for name in self.bias}
        axis = {} if self.frame_axis is None else {"frame_axis": self.frame_axis}
        return {"steps": self.steps, **axis, "margin": self.margin, "classes": classes}

    @property
    def numbers(self) -> tuple[str, ...]:
        """The numbers that any class has a weight for, in a fixed order."""
        return tuple(sorted({number for own in self.weights.values() for number in own}))

    def content_of(self, values: Sequence[float]) -> str | None:
        """The content class of one video; None where no class leads clearly, or a number is not finite.

        Args:
            values: of `numbers`, in their order.
        """
        known = dict(zip(self.numbers, values, strict=True))
        if not all(map(math.isfinite, values)):
            return None
        scores = {
            name: self.bias[name] + math.fsum(weight * known[number] for number, weight in self.weights[name].items())
            for name in self.bias
        }
        best, following = sorted(scores, key=lambda name: -scores[name])[:2]
        return best if scores[best] - scores[following] >= self.margin else None

    def content_of_all(self, videos: Sequence[Sequence[float]]) -> str | None:
        """The content class that all videos of a call are of; None where one is of no known class, or two disagree."""
        contents = {self.content_of(values) for values in videos}
        return contents.pop() if len(contents) == 1 else None


def parse_number(number: str) -> tuple[str, int]:
    """Name of a number, and after how many steps it is known.

    Raises:
        PolicyError: there is no such number.
    """
    name, _, step = number.partition("@")
    if name not in NUMBERS or not step.isdecimal() or int(step) < 1:
        raise PolicyError(
            f"first_steps: {number!r} is no number of first steps; known are {', '.join(NUMBERS)}, each with @ and after how "
            "many steps, such as spread@2"
        )
    return name, int(step)


def first_broadcast(rule: Rule, steps: int | None) -> int | None:
    """The first step in which a rule may broadcast, on the schedule that it was made for; None = never, or not known here.

    Args:
        rule: the rule.
        steps: of that schedule; None = unknown.
    """
    if rule.compute is not None:
        computed = set(rule.compute)
        return next(step for step in range(rule.compute[-1] + 2) if step not in computed)
    if rule.count is not None:
        if steps is None:
            return None
        computed = {0, *counted_steps(steps, rule.count, rule.first or 0, rule.last or 0)}
        return next((step for step in range(steps) if step not in computed), None)
    if rule.range in (None, 1) or rule.noise_window is not None:
        return None
    start = max(rule.first if rule.first is not None else (rule.window or (0, 0))[0], 1)
    stop = rule.window[1] if rule.window is not None else steps - (rule.last or 0) if steps is not None else None
    first = start + 1 if rule.anchor == "start" and start % (rule.range or 1) == 0 else start
    return first if stop is None or first < stop else None
