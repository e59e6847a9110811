"""Elements of SVG as text, and axes with their ticks. Knows no records; colours are variables of the page's style."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

DASHES = ("", "6 3", "2 3")
"""Of lines whose colour comes again."""


def element(tag: str, content: str = "", /, **attributes: object) -> str:
    """An element; underscores of its attributes' names are hyphens, and what is None is left out."""
    written = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{escape(_short(value))}"'
        for name, value in attributes.items()
        if value is not None
    )
    return f"<{tag}{written}>{content}</{tag}>" if content else f"<{tag}{written}/>"


def label(words: str, x: float, y: float, **attributes: object) -> str:
    """A text."""
    return element("text", escape(words), x=x, y=y, **attributes)


def picture(content: Sequence[str], width: float, height: float, title: str, size: str) -> str:
    """A whole picture with a title for those who cannot see it.

    Args:
        content: its elements.
        width: in units of its own; text has 12 of them.
        height: the same.
        title: what is to be seen.
        size: class of the screens that it is for.
    """
    return element(
        "svg",
        element("title", escape(title)) + "".join(content),
        class_=size,
        viewBox=f"0 0 {_short(width)} {_short(height)}",
        width=width,
        height=height,
        role="img",
        aria_label=title,
    )


def path(points: Sequence[tuple[float, float]]) -> str:
    """The commands of a line through points; one that is no number ends a part of it."""
    commands, is_down = [], False
    for x, y in points:
        if not (math.isfinite(x) and math.isfinite(y)):
            is_down = False
            continue
        commands.append(f"{'L' if is_down else 'M'}{_short(x)} {_short(y)}")
        is_down = True
    return "".join(commands)


@dataclass(frozen=True, slots=True, kw_only=True)
class Axes:
    """A rectangle of a picture, and the values at its edges.

    Attributes:
        left, right, top, bottom: of the rectangle.
        least_x, most_x, least_y, most_y: values at its edges.
        is_log: whether the vertical one is logarithmic.
    """

    left: float
    right: float
    top: float
    bottom: float
    least_x: float
    most_x: float
    least_y: float
    most_y: float
    is_log: bool = False

    def x(self, value: float) -> float:
        """Where a value lies."""
        return self.left + (value - self.least_x) / (self.most_x - self.least_x) * (self.right - self.left)

    def y(self, value: float) -> float:
        """Where a value lies."""
        low, high, here = self.least_y, self.most_y, value
        if self.is_log:
            low, high, here = math.log10(low), math.log10(high), math.log10(value)
        return self.bottom - (here - low) / (high - low) * (self.bottom - self.top)

    def across(self, ticks: Sequence[float], words: Sequence[str]) -> str:
        """Numbers below, with short lines."""
        return "".join(
            element("path", d=f"M{_short(self.x(tick))} {_short(self.bottom)}v4", class_="axis")
            + label(word, self.x(tick), self.bottom + 17, text_anchor="middle", class_="tick")
            for tick, word in zip(ticks, words, strict=True)
        )

    def up(self, ticks: Sequence[float], words: Sequence[str]) -> str:
        """Numbers on the left, with lines across."""
        return "".join(
            element("path", d=f"M{_short(self.left)} {_short(self.y(tick))}H{_short(self.right)}", class_="grid")
            + label(word, self.left - 6, self.y(tick) + 4, text_anchor="end", class_="tick")
            for tick, word in zip(ticks, words, strict=True)
        )


def even_ticks(least: float, most: float, count: int) -> list[float]:
    """About so many round numbers in a range."""
    rough = (most - least) / max(count, 1)
    if rough <= 0:
        return [least]
    unit = 10 ** math.floor(math.log10(rough))
    step = next(factor * unit for factor in (1, 2, 5, 10) if factor * unit >= rough * 0.999)
    first = math.ceil(least / step - 1e-9)
    return [round(index * step, 12) for index in range(first, math.floor(most / step + 1e-9) + 1)]


def decades(least: float, most: float) -> tuple[list[float], list[str]]:
    """Powers of ten in a range and their names; of many every second, third … one."""
    exponents = list(range(math.ceil(math.log10(least) - 1e-9), math.floor(math.log10(most) + 1e-9) + 1))
    shown = exponents[:: 1 + len(exponents) // 7]
    return [10.0**each for each in shown], [f"10{str(each).translate(SUPERSCRIPTS)}" for each in shown]


def dash_of(index: int, colors: int) -> str | None:
    """The dashes of a line whose colour has been used before."""
    return DASHES[index // colors % len(DASHES)] or None


def _short(value: object) -> str:
    """A number with at most one digit behind the point; anything else as it is."""
    return f"{value:.1f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
