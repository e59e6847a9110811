"""The timeline of a policy as lines of text, for a terminal or a pipe."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pabtune.planning.payloads import Payload
from pabtune.planning.timelines import Row, State, Timeline
from pabtune.records.errors import one_line
from pabtune.records.sites import Kind

SYMBOLS: Mapping[State, str] = {"compute": "█", "half": "▄", "broadcast": "░", "inside": "·", "idle": " "}
ASCII_SYMBOLS: Mapping[State, str] = {"compute": "#", "half": "+", "broadcast": "-", "inside": ".", "idle": " "}

STATE_LINES: Mapping[State, str] = {
    "compute": "computes",
    "half": "computes one guidance branch",
    "broadcast": "broadcasts",
    "inside": "not reached",
    "idle": "not called",
}
"""What the legend says of each state."""

KIND_NAMES: Mapping[Kind, str] = {"transformer": "whole call", "guidance": "guidance difference"}
"""Kinds that have another name in a picture."""

TICK = 5
"""Steps from one number on the axis to the next."""

LEAST_WIDTH, WIDTH_OF_COUNTS = 40, 60
"""Narrowest text in columns, and the narrowest one that shows counts beside the rows."""

LONGEST_NAME, LONGEST_TEXT = 40, 80
"""Most characters of a row's name, and of a text from a file."""


def timeline_lines(timeline: Timeline, width: int, symbols: Mapping[State, str] = SYMBOLS) -> list[str]:
    """The picture of a timeline: title, rows by step, legend, summary.

    Args:
        timeline: the timeline.
        width: columns of the terminal.
        symbols: `SYMBOLS`, or `ASCII_SYMBOLS` where these cannot be encoded.
    """
    width = max(width, LEAST_WIDTH)
    states = {state for row in timeline.rows for state in row.states}
    legend = "   ".join(f"{symbols[state]} {line}" for state, line in STATE_LINES.items() if state in states - {"idle"})
    return [
        *textwrap.wrap(title_of(timeline), width),
        "",
        *_grid(timeline, width, symbols),
        *textwrap.wrap(legend, width),
        "",
        *(line for text in summary_lines(timeline) for line in textwrap.wrap(text, width, subsequent_indent="  ")),
    ]


def title_of(timeline: Timeline) -> str:
    """The policy, its content class, and how many steps are shown."""
    content = f", content {one_line(timeline.content, LONGEST_TEXT)}" if timeline.content is not None else ""
    steps = "1 step" if timeline.steps == 1 else f"{timeline.steps} steps"
    return f"{one_line(timeline.policy.name, LONGEST_TEXT)}{content}, {steps}"


def name_of(timeline: Timeline, row: Row) -> str:
    """Transformer if there are several, kind and layers of a row."""
    transformer = one_line(row.transformer, LONGEST_NAME) if timeline.has_several_transformers else ""
    return " ".join(each for each in (transformer, KIND_NAMES.get(row.kind, row.kind), row.layers) if each)


def counts_of(row: Row) -> str:
    """How many of its calls a row computes, and what the others are served."""
    payload = f" {payload_in_words(row.payload)}" if row.payload is not None else ""
    return f"{row.computed:g}/{row.called}{payload}"


def payload_in_words(payload: Payload) -> str:
    """What a broadcast serves."""
    return payload.kind if payload.damping == 1 else f"{payload.kind}:{payload.damping:g}"


def summary_lines(timeline: Timeline) -> list[str]:
    """What the policy computes, what it was made for, and what its file says was measured."""
    lines = [_computed_line(timeline)]
    made_for = timeline.policy.made_for
    parts = [one_line(each, LONGEST_TEXT) for each in (made_for.model, made_for.scheduler) if each is not None]
    if made_for.steps is not None:
        parts.insert(1 if made_for.model is not None else 0, f"{made_for.steps} steps")
    if parts:
        lines.append(f"made for: {', '.join(parts)}")
    if timeline.policy.store != "exact":
        lines.append(f"store: {timeline.policy.store}")
    measured = _measured(timeline.evidence)
    if measured:
        lines.append(f"measured: {', '.join(measured)}")
    return lines + _notes(timeline)


def _computed_line(timeline: Timeline) -> str:
    steps = timeline.steps
    called = f"computed: {timeline.called_steps} of {steps} steps call the transformer"
    full = "" if timeline.full_steps == timeline.called_steps else f", {timeline.full_steps} compute everything in it"
    share = timeline.site_call_share
    told = "" if share is None else f"; {share:.1%} of all site calls compute"
    return called + full + told


def _measured(evidence: Mapping[str, Any]) -> list[str]:
    """What was measured, as far as the file has it; evidence is free, so that any of it may be missing or odd."""
    verdict, device = evidence.get("verdict"), _inside(evidence, "speedup", "device")
    parts = [one_line(verdict, LONGEST_TEXT)] if isinstance(verdict, str) else []
    on_device = f" on {one_line(device, LONGEST_TEXT)}" if isinstance(device, str) else ""
    numbers = (
        (("speedup", "measured"), "{:.2f}x as fast" + on_device.replace("{", "{{").replace("}", "}}")),
        (("fidelity", "psnr_db"), "mean PSNR {:.2f} dB"),
        (("fidelity", "worst_psnr_db"), "worst {:.2f} dB"),
        (("score_drop", "mean"), "score drop {:+.2f}"),
        (("prompts",), "{:g} prompts"),
    )
    for keys, text in numbers:
        value = _inside(evidence, *keys)
        if isinstance(value, int | float) and not isinstance(value, bool):
            parts.append(text.format(value))
    return parts


def _inside(document: Any, *keys: str) -> Any:
    """A value inside of objects in objects; None where one is missing or no object."""
    for key in keys:
        document = document.get(key) if isinstance(document, Mapping) else None
    return document


def _notes(timeline: Timeline) -> list[str]:
    """What a reader should know of how the picture came about."""
    policy, notes = timeline.policy, []
    if timeline.is_assumed and policy.made_for.sigmas is None:
        notes.append(
            "note: the policy's windows are in noise levels, which are assumed to fall evenly; --profile shows a model's"
        )
    elif timeline.is_assumed:
        notes.append(
            "note: noise levels are interpolated from those that the policy was made for; --profile shows a model's"
        )
    if timeline.is_carried:
        other = "; the measurements are of the other" if timeline.evidence else ""
        notes.append(f"note: made for another schedule, carried over to this one{other}")
    if timeline.content is None and policy.variants:
        names = ", ".join(one_line(name, LONGEST_TEXT) for name in policy.variants)
        notes.append(f"note: there are variants for {names}; --content shows them")
    if timeline.content is None and policy.classifier is not None:
        notes.append("note: with --content auto the class of a run is told by its prompt")
    if timeline.content is None and policy.first_steps is not None:
        notes.append(
            f"note: with --content auto the class of a run is told after its first {policy.first_steps.steps} steps"
        )
    return notes


def _grid(timeline: Timeline, width: int, symbols: Mapping[State, str]) -> Iterator[str]:
    """Axes and rows, in as many parts one below the other as the width makes necessary."""
    names = [name_of(timeline, row) for row in timeline.rows]
    counts = [counts_of(row) if width >= WIDTH_OF_COUNTS else "" for row in timeline.rows]
    beside = max(map(len, counts)) + 4  # with the gaps on both sides of the cells
    longest = min(max(map(len, (*names, "noise level"))), LONGEST_NAME)
    margin = min(longest, max(width // 3, width - beside - timeline.steps))
    space = width - margin - beside
    cell = 2 if 2 * timeline.steps <= space else 1
    shown = timeline.steps if cell * timeline.steps <= space else max(space // TICK * TICK, TICK)
    for start in range(0, timeline.steps, shown):
        steps = range(start, min(start + shown, timeline.steps))
        ticks = [step for step in steps if step % TICK == 0]
        yield _line("step", margin, _axis(ticks, [str(step) for step in ticks], start, cell))
        if timeline.noise_levels is not None:
            levels = [f"{timeline.noise_levels[step]:.2f}" for step in ticks]
            yield _line("noise level", margin, _axis(ticks, levels, start, cell))
        for name, row, count in zip(names, timeline.rows, counts, strict=True):
            cells = "".join(symbols[row.states[step]] * cell for step in steps)
            short = name if len(name) <= margin else f"{name[: margin - 1]}~"
            yield _line(
                short, margin, f"{cells.ljust(cell * shown)}  {count if start + shown >= timeline.steps else ''}"
            )
        yield ""


def _line(name: str, margin: int, text: str) -> str:
    return f"{name.ljust(margin)}  {text}".rstrip()


def _axis(ticks: Sequence[int], labels: Sequence[str], start: int, cell: int) -> str:
    """Labels that begin at their steps."""
    text = ""
    for tick, label in zip(ticks, labels, strict=True):
        text = text.ljust((tick - start) * cell) + label
    return text
