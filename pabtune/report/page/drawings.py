"""The page's pictures as SVG: curves with windows, policies step by step, closeness over time, intervals.

Each is drawn twice, for wide and for narrow screens. Knows their data; knows nothing of files.
"""

import math
from collections.abc import Callable, Mapping, Sequence

from pabtune.planning.timelines import State, Timeline
from pabtune.report.figures import LEAST_CHANGE, CurvesData
from pabtune.report.page.panels import Panel, Series
from pabtune.report.page.results import Judged, largest_drop
from pabtune.report.page.svg import Axes, dash_of, decades, element, even_ticks, label, path, picture
from pabtune.report.timeline_text import counts_of, name_of, title_of

WIDTHS: Mapping[str, int] = {"wide": 760, "narrow": 340}
"""Of pictures for screens and paper, and for phones."""

COLORS = 10
"""Of lines, which the page's style names."""

HIGHEST_DRAWN_DB = 80.0
"""Closer ones are drawn like this: videos that are the same have 100."""

MOST_STEPS_APART = 120
"""Most steps between which gaps are drawn."""

KIND_COLORS: Mapping[str, int] = {"spatial": 0, "temporal": 1, "cross": 2, "full": 3, "mlp": 4}


def both(draw: Callable[[int, str], str]) -> str:
    """A picture for each kind of screen."""
    return "".join(draw(width, size) for size, width in WIDTHS.items())


def color_of(index: int) -> str:
    """Style of a line or a mark."""
    return f"--color:var(--c{index % COLORS})"


def is_plain(index: int) -> bool:
    """Whether a line is the first of its colour: further ones are dashed, and their marks are hollow."""
    return dash_of(index, COLORS) is None


def draw_curves(data: CurvesData) -> str:
    """Change over the steps on a logarithmic axis, and bars for the stable windows below."""
    return both(lambda width, size: _curves(data, width, size))


def _curves(data: CurvesData, width: int, size: str) -> str:
    values = [max(float(v), LEAST_CHANGE) for curve in data.curves.values() for v in curve if math.isfinite(v)]
    least, most = (min(values), max(values)) if values else (0.1, 1.0)
    bottom, row = (300, 18) if size == "wide" else (230, 18)
    axes = Axes(
        left=76, right=width - 10, top=12, bottom=bottom, least_x=0, most_x=max(data.steps - 1, 1),
        least_y=least / 1.3, most_y=most * 1.3, is_log=True,
    )  # fmt: skip
    windows_top = bottom + 42
    parts = [axes.up(*decades(axes.least_y, axes.most_y))]
    ticks = even_ticks(0, axes.most_x, 10 if size == "wide" else 5)
    for index, (kind, curve) in enumerate(data.curves.items()):
        color, y = color_of(KIND_COLORS.get(kind, index)), windows_top + index * row
        points = [(axes.x(step), _level(axes, value)) for step, value in enumerate(curve, start=1)]
        parts.append(element("path", d=path(points), class_="line", style=color))
        parts += [
            element("circle", cx=x, cy=y_, r=2.2, class_="mark", style=color) for x, y_ in points if math.isfinite(y_)
        ]
        parts.append(label(kind, axes.left - 6, y + 10, text_anchor="end", class_="tick"))
        window = data.windows[kind]
        if window.start is None or window.stop is None:
            parts.append(label("no stable window", axes.left + 4, y + 10, class_="note"))
            continue
        x = axes.x(window.start - 0.4)
        end = axes.x(window.stop - 0.6)
        parts.append(element("rect", x=x, y=y, width=end - x, height=12, rx=3, class_="bar", style=color))
        words = f"{window.start}–{window.stop - 1}"
        parts.append(label(words, (x + end) / 2, y + 10, text_anchor="middle", class_="on-bar"))
    parts.append(axes.across(ticks, [f"{tick:g}" for tick in ticks]))
    middle = (axes.left + axes.right) / 2
    parts.append(label("denoising step", middle, bottom + 33, text_anchor="middle", class_="tick"))
    height = windows_top + len(data.curves) * row + 2
    title = f"Change of the outputs from step to step over {data.steps} denoising steps, per kind, with stable windows"
    return picture(parts, width, height, title, size)


def _level(axes: Axes, value: float) -> float:
    return axes.y(max(float(value), LEAST_CHANGE)) if math.isfinite(value) else math.nan


def draw_timeline(timeline: Timeline) -> str:
    """What a policy does: a row of cells for each kind and layers, a cell for each step."""
    return both(lambda width, size: _timeline(timeline, width, size))


def _timeline(timeline: Timeline, width: int, size: str) -> str:
    is_wide = size == "wide"
    left, right, row = (190, width - 116, 22) if is_wide else (4, width - 4, 36)
    cell, parts, y = (right - left) / timeline.steps, [], 4.0
    for each in timeline.rows:
        name, told = name_of(timeline, each), counts_of(each)
        if is_wide:
            parts.append(label(_cut(name, 29), left - 8, y + 13, text_anchor="end", class_="tick"))
            parts.append(label(_cut(told, 18), right + 8, y + 13, class_="note"))
            top = y
        else:
            parts.append(label(_cut(name, 30), left, y + 11, class_="tick"))
            parts.append(label(_cut(told, 18), right, y + 11, text_anchor="end", class_="note"))
            top = y + 16
        parts += _cells(each.states, left, top, cell, 17 if is_wide else 14)
        y += row
    ticks = even_ticks(0, timeline.steps - 1, 10 if is_wide else 6)
    parts += [
        label(f"{tick:g}", left + (tick + 0.5) * cell, y + 12, text_anchor="middle", class_="tick")
        for tick in ticks
        if tick == int(tick)
    ]
    parts.append(label("denoising step", (left + right) / 2, y + 28, text_anchor="middle", class_="tick"))
    return picture(parts, width, y + 34, f"What computes at which step: {title_of(timeline)}", size)


def _cells(states: Sequence[State], left: float, top: float, cell: float, height: float) -> list[str]:
    """One path for each state; where steps are many, neighbours that do the same are one cell."""
    gap = min(1.2, cell / 5) if len(states) <= MOST_STEPS_APART else 0.0
    places: dict[State, list[str]] = {}
    start = 0
    for step in range(1, len(states) + 1):
        if step < len(states) and states[step] == states[start] and not gap:
            continue
        wide = (step - start) * cell - gap
        places.setdefault(states[start], []).append(
            f"M{left + start * cell:.2f} {top:g}h{wide:.2f}v{height:g}h-{wide:.2f}z"
        )
        start = step
    return [element("path", d="".join(each), class_=f"cell {state}") for state, each in places.items()]


def draw_panel(panel: Panel) -> str:
    """Closeness over measured time, a line for each method or a mark for each policy."""
    return both(lambda width, size: _panel(panel, width, size))


def _panel(panel: Panel, width: int, size: str) -> str:
    drawn = [(100 * each.time_share, min(each.psnr_db, HIGHEST_DRAWN_DB)) for s in panel.series for each in s.drawable]
    most_x = max(100.0, *(x for x, _ in drawn)) * 1.04
    least_y, most_y = min(y for _, y in drawn), max(y for _, y in drawn)
    margin = max((most_y - least_y) * 0.08, 1.0)
    height = 340 if size == "wide" else 270
    axes = Axes(
        left=46, right=width - 10, top=22, bottom=height - 40, least_x=0, most_x=most_x,
        least_y=least_y - margin, most_y=most_y + margin,
    )  # fmt: skip
    up, across = even_ticks(axes.least_y, axes.most_y, 6), even_ticks(0, most_x, 10 if size == "wide" else 5)
    parts = [axes.up(up, [f"{tick:g}" for tick in up]), axes.across(across, [f"{tick:g} %" for tick in across])]
    ranked = sorted(enumerate(panel.series), key=lambda pair: pair[1].role == "ours")
    for index, series in ranked:
        parts += _series(series, index, axes)
    parts.append(label("PSNR, dB", 4, 12, class_="tick"))
    words = "measured time, share of the full run"
    parts.append(label(words, (axes.left + axes.right) / 2, height - 6, text_anchor="middle", class_="tick"))
    return picture(parts, width, height, f"{panel.title}: mean PSNR over measured time", size)


def _series(series: Series, index: int, axes: Axes) -> list[str]:
    """Marks of one method, joined where it is one knob; ours are thick."""
    style, is_ours = color_of(index), series.role == "ours"
    points = [
        (axes.x(100 * each.time_share), axes.y(min(each.psnr_db, HIGHEST_DRAWN_DB)), each) for each in series.drawable
    ]
    parts = []
    if series.is_joined and len(points) > 1:
        line = path([(x, y) for x, y, _ in sorted(points, key=lambda point: point[0])])
        parts.append(
            element(
                "path",
                d=line,
                class_="line ours" if is_ours else "line",
                style=style,
                stroke_dasharray=dash_of(index, COLORS),
            )
        )
    for x, y, each in points:
        words = f"{each.policy}: {each.speedup:.2f}× as fast, {each.psnr_db:.1f} dB"
        mark = element("title", words.replace("&", "&amp;").replace("<", "&lt;"))
        shape = "mark" if is_plain(index) else "mark hollow"
        parts.append(element("circle", mark, cx=x, cy=y, r=5.5 if is_ours else 4, class_=shape, style=style))
    return parts


def draw_interval(judged: Judged) -> str:
    """Mean drop with its interval on a line, beside the budget; empty where there is nothing to draw."""
    budget = largest_drop(judged.budget)
    if judged.mean_drop is None or judged.low is None or judged.high is None:
        return ""
    return both(lambda width, size: _interval(judged, budget, width, size))


def _interval(judged: Judged, budget: float | None, width: int, size: str) -> str:
    mean, low, high = judged.mean_drop or 0.0, judged.low or 0.0, judged.high or 0.0
    values = [0.0, low, high, mean, *([] if budget is None else [budget])]
    span = max(max(values) - min(values), 1e-6)
    axes = Axes(
        left=14, right=width - 14, top=0, bottom=46, least_x=min(values) - 0.12 * span, most_x=max(values) + 0.12 * span,
        least_y=0, most_y=1,
    )  # fmt: skip
    ticks = even_ticks(axes.least_x, axes.most_x, 7 if size == "wide" else 4)
    parts = [
        element("path", d=f"M{axes.left} 46H{axes.right}", class_="axis"),
        axes.across(ticks, [f"{tick:g}".replace("-", "−") for tick in ticks]),
    ]
    if budget is not None:
        x = axes.x(budget)
        parts.append(element("rect", x=x, y=6, width=axes.right - x, height=40, class_="beyond"))
        parts.append(element("path", d=f"M{x:.1f} 6V46", class_="limit"))
        anchor = "end" if x > width / 2 else "start"
        parts.append(label("budget", x + (-5 if anchor == "end" else 5), 16, text_anchor=anchor, class_="note"))
    wide = max(axes.x(high) - axes.x(low), 2.0)
    parts.append(element("rect", x=axes.x(low), y=23, width=wide, height=12, rx=6, class_=f"interval {judged.verdict}"))
    parts.append(element("circle", cx=axes.x(mean), cy=29, r=5, class_="mean"))
    words = "lost points of the score, mean with its 95 % interval"
    parts.append(label(words, width / 2, 80, text_anchor="middle", class_="tick"))
    return picture(parts, width, 86, f"Mean drop {mean:+.2f}, 95 % interval {low:+.2f} to {high:+.2f}", size)


def _cut(words: str, most: int) -> str:
    return words if len(words) <= most else f"{words[: most - 1]}…"
