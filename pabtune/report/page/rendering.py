"""A page as one file of HTML, with its style, pictures and videos inside. Knows how it looks; measures and chooses nothing."""

from base64 import b64encode
from collections.abc import Callable, Mapping
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import Any

from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup

from pabtune import __version__
from pabtune.planning.curves import ALL_CONTENTS
from pabtune.report.page import words
from pabtune.report.page.drawings import (
    KIND_COLORS,
    color_of,
    draw_curves,
    draw_interval,
    draw_panel,
    draw_timeline,
    is_plain,
)
from pabtune.report.page.page import Page
from pabtune.report.timeline_text import STATE_LINES, summary_lines

VERDICTS: Mapping[str, str] = {"accept": "Accepted", "reject": "Rejected", "undecided": "Undecided"}

FILTERS: Mapping[str, Callable[..., Any]] = {
    "times": words.times,
    "share": words.share,
    "decibels": words.decibels,
    "points": words.points,
    "seconds": words.seconds,
    "similarity": words.similarity,
    "decimal": words.decimal,
    "prompts": words.prompts,
    "short": words.short,
    "sentence": words.sentence,
    "verdict_words": words.verdict_in_words,
    "interval_words": words.interval_in_words,
    "doubt_words": words.doubt_in_words,
    "numbers_words": words.numbers_in_words,
    "summary_lines": summary_lines,
}


def as_html(page: Page) -> str:
    """The page. The same record gives the same text; nothing in it is fetched from elsewhere."""
    style, script = _template("page.css"), _template("page.js")
    return (
        _environment()
        .get_template("page.html")
        .render(
            page=page,
            all_contents=ALL_CONTENTS,
            nothing=words.NOTHING,
            style=Markup(style),  # noqa: S704, our own files
            script=Markup(script),  # noqa: S704
            script_hash=_hash(script),
            version=__version__,
            verdict_names=VERDICTS,
            state_lines=STATE_LINES,
        )
    )


@cache
def _environment() -> Environment:
    names = [each.name for each in (files("pabtune.report") / "templates").iterdir() if each.name.endswith(".html")]
    environment = Environment(
        loader=DictLoader({name: _template(name) for name in sorted(names)}),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(FILTERS)
    for name, draw in (
        ("curves", draw_curves), ("timeline", draw_timeline), ("panel", draw_panel), ("interval", draw_interval),
    ):  # fmt: skip
        environment.filters[f"{name}_picture"] = _as_markup(draw)
    environment.filters["color"] = color_of
    environment.tests["plain"] = is_plain
    environment.globals["kind_colors"] = dict(KIND_COLORS)
    return environment


def _as_markup(draw: Callable[[Any], str]) -> Callable[[Any], Markup]:
    """Pictures are markup whose texts the drawing has escaped."""
    return lambda data: Markup(draw(data))  # noqa: S704


@cache
def _template(name: str) -> str:
    return (files("pabtune.report") / "templates" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """By which the page's policy knows its own style and script, and runs no other."""
    return f"sha256-{b64encode(sha256(text.encode()).digest()).decode('ascii')}"
