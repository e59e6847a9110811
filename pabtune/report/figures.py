"""Figures of profiles and searches: their data first, as records without any drawing, then the drawing of these."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from pabtune.planning.curves import ALL_CONTENTS, kind_curves, mean_of_known, mean_over_contents, rows_of
from pabtune.planning.timelines import STATES, State, Timeline
from pabtune.planning.windows import StableWindow, windows_of
from pabtune.records.files import write_atomically
from pabtune.records.profiles import Profile
from pabtune.records.trials import Candidate
from pabtune.report.timeline_text import STATE_LINES, TICK, counts_of, name_of, summary_lines, title_of
from pabtune.tuning.results import pareto_front

KIND_COLORS = {"spatial": "C0", "temporal": "C1", "cross": "C2", "full": "C4", "mlp": "C3"}

MEASURES: Mapping[str, str] = {
    "change": "squared change from the step\nbefore / output squared",
    "mse": "mean squared difference\nfrom the step before",
}
"""Label of the axis of each measure: the relative one, and the one that the PAB paper plots."""

LEAST_CHANGE = 1e-12
"""Smaller changes are drawn like this one, on a logarithmic scale."""

HIGHEST_PSNR_DB = 60.0
"""Higher ones, of videos that hardly differ, are drawn like this one."""

STATE_COLORS: Mapping[State, str] = {
    "compute": "#1f4e79", "half": "#7fa8d1", "broadcast": "#f6cf9c", "inside": "#ececec", "idle": "#ffffff"
}  # fmt: skip

DPI = 144

MOST_STEPS_APART = 120
"""Most steps between which a timeline draws gaps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvesData:
    """Curves over the denoising steps.

    Attributes:
        title: of the figure.
        label: of the vertical axis.
        steps: of the run.
        curves: per kind, (steps - 1,), from step 1 on.
        windows: per kind.
    """

    title: str
    label: str
    steps: int
    curves: Mapping[str, NDArray[np.floating]]
    windows: Mapping[str, StableWindow]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeatMapData:
    """Values layer by step.

    Attributes:
        title: of the figure.
        rows: names of the layers.
        values: (layers, steps - 1), from step 1 on; log10 of the change.
    """

    title: str
    rows: tuple[str, ...]
    values: NDArray[np.floating]


@dataclass(frozen=True, slots=True, kw_only=True)
class DistancesData:
    """Relative squared distances of outputs, (steps, steps), and the figure's title."""

    title: str
    values: NDArray[np.floating]


@dataclass(frozen=True, slots=True, kw_only=True)
class ParetoPoint:
    """A trial in the figure.

    Attributes:
        predicted_time: over that of the full run.
        drop: lost points of the score.
        psnr_db: against the reference, as it is drawn.
        is_preset: whether it is one of the presets.
        is_feasible: within the budget and above the fidelity floor.
    """

    predicted_time: float
    drop: float
    psnr_db: float
    is_preset: bool
    is_feasible: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ParetoData:
    """All trials that drew videos, and those that no other one beats, by time."""

    points: tuple[ParetoPoint, ...]
    front: tuple[ParetoPoint, ...]


def curves_data(profile: Profile, content: str | None = None, measure: str = "change") -> CurvesData:
    """Curves of each kind with its stable window.

    Args:
        profile: any.
        content: one content class; None = all.
        measure: `change`, or `mse` as the PAB paper plots it. Windows are those of the change.
    """
    curves = kind_curves(mean_over_contents(profile, measure, content), profile.sites)
    return CurvesData(
        title=f"{profile.name}: {content or 'all contents'}",
        label=MEASURES[measure],
        steps=profile.steps,
        curves={kind: curve[1:] for kind, curve in curves.items()},
        windows=windows_of(profile)[content or ALL_CONTENTS],
    )


def heat_map_data(profile: Profile, kind: str) -> HeatMapData:
    """Change of one kind's outputs, layer by step, over all contents and branches."""
    rows = rows_of(kind, profile.sites)
    change = mean_over_contents(profile, "change")[rows, 1:]
    return HeatMapData(
        title=f"{kind}: log10 of the change from the step before",
        rows=tuple(profile.sites[row].path for row in rows),
        values=np.log10(np.maximum(change, LEAST_CHANGE)),
    )


def distances_data(profile: Profile, kind: str) -> DistancesData:
    """Distances of one kind's outputs between any two steps."""
    distance = mean_over_contents(profile, "distance")[rows_of(kind, profile.sites)]
    return DistancesData(title=f"{kind}: distance between steps", values=mean_of_known(distance, 0))


def pareto_data(candidates: Sequence[Candidate]) -> ParetoData:
    """Trials by time, lost points and fidelity."""
    return ParetoData(points=_points(candidates), front=_points(pareto_front(candidates)))


def _points(candidates: Sequence[Candidate]) -> tuple[ParetoPoint, ...]:
    return tuple(
        ParetoPoint(
            predicted_time=candidate.outcome.predicted_time,
            drop=candidate.outcome.measured.drop,
            psnr_db=min(candidate.outcome.measured.psnr_db, HIGHEST_PSNR_DB),
            is_preset=candidate.origin.startswith("preset"),
            is_feasible=candidate.outcome.is_feasible,
        )
        for candidate in candidates
        if candidate.outcome.measured is not None
    )


def draw_curves(data: CurvesData) -> Figure:
    """Curves over the steps, the stable windows as bars below."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    curves_axes, windows_axes = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    for row, (kind, curve) in enumerate(data.curves.items()):
        color, window = KIND_COLORS[kind], data.windows[kind]
        curves_axes.plot(range(1, data.steps), curve, color=color, label=kind, marker=".")
        if window.start is not None and window.stop is not None:
            windows_axes.barh(row, window.stop - window.start, left=window.start - 0.5, color=color, height=0.7)
        else:
            windows_axes.text(data.steps / 2, row, f"{kind}: no stable window", ha="center", va="center", color=color)
    curves_axes.set_yscale("log")
    curves_axes.set_ylabel(data.label)
    curves_axes.set_title(data.title, parse_math=False)
    curves_axes.legend()
    curves_axes.grid(alpha=0.3)
    windows_axes.set_yticks(range(len(data.curves)), list(data.curves))
    windows_axes.set_xlabel("denoising step")
    windows_axes.set_ylabel("stable\nwindow")
    return figure


def draw_heat_map(data: HeatMapData) -> Figure:
    """A row of colours for each layer."""
    count, steps = data.values.shape
    figure = Figure(figsize=(8, 0.35 * count + 1.6), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(data.values, aspect="auto", extent=(0.5, steps + 0.5, count, 0))
    axes.set_yticks(np.arange(count) + 0.5, data.rows, fontsize=7)
    axes.set_xlabel("denoising step")
    axes.set_title(data.title, parse_math=False)
    figure.colorbar(image)
    return figure


def draw_distances(data: DistancesData) -> Figure:
    """A square of colours, step by step."""
    figure = Figure(figsize=(5, 4.2), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(data.values, vmin=0)
    axes.set_title(data.title, parse_math=False)
    axes.set_xlabel("denoising step")
    axes.set_ylabel("denoising step")
    figure.colorbar(image)
    return figure


def draw_pareto(data: ParetoData) -> Figure:
    """Time against lost points and against fidelity, one mark per trial; feasible ones filled, the front joined."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    measures = {"drop": "lost points of the score", "psnr_db": "PSNR to the reference, dB"}
    for axes, (measure, label) in zip(figure.subplots(1, 2), measures.items(), strict=True):
        for point in data.points:
            axes.plot(
                point.predicted_time,
                getattr(point, measure),
                marker="s" if point.is_preset else "o",
                color="C3" if point.is_preset else "C0",
                fillstyle="full" if point.is_feasible else "none",
                linestyle="",
            )
        axes.plot([point.predicted_time for point in data.front], [getattr(p, measure) for p in data.front], "k:")
        axes.set_xlabel("predicted time / full run")
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
    figure.suptitle("trials: squares are presets, filled = within the budget and above the fidelity floor")
    return figure


def draw_timeline(timeline: Timeline) -> Figure:
    """Rows of cells, one for each step, coloured by what the sites do; the noise level above, where it is known."""
    count, steps = len(timeline.rows), timeline.steps
    width = min(max(5.5 + 0.2 * steps, 8.5), 20)
    lines = [line for text in summary_lines(timeline) for line in textwrap.wrap(text, int(width * 12))]
    level_height = 0 if timeline.noise_levels is None else 0.9
    height = 0.34 * count + level_height + 0.17 * len(lines) + 1.6
    figure = Figure(figsize=(width, height), layout="constrained")
    ratios = [0.34 * count + 0.1] if timeline.noise_levels is None else [level_height, 0.34 * count + 0.1]
    *above, axes = np.atleast_1d(figure.subplots(len(ratios), 1, sharex=True, height_ratios=ratios))
    figure.suptitle(title_of(timeline), x=0.01, ha="left", fontweight="bold", parse_math=False)
    if timeline.noise_levels is not None:
        _draw_noise_levels(above[0], timeline)
    codes = [[STATES.index(state) for state in row.states] for row in timeline.rows]
    axes.pcolormesh(
        np.arange(steps + 1) - 0.5,
        np.arange(count + 1) - 0.5,
        np.array(codes),
        cmap=ListedColormap([STATE_COLORS[state] for state in STATES]),
        vmin=-0.5,
        vmax=len(STATES) - 0.5,
        edgecolors="white" if steps <= MOST_STEPS_APART else "none",
        linewidth=1.2 if steps <= MOST_STEPS_APART else 0,
    )
    axes.set_yticks(range(count), [name_of(timeline, row) for row in timeline.rows], parse_math=False)
    counts = axes.secondary_yaxis("right")
    counts.set_yticks(range(count), [counts_of(row) for row in timeline.rows])
    for each in (axes, counts):
        each.tick_params(axis="y", length=0)
        each.spines[:].set_visible(False)
    axes.invert_yaxis()
    axes.set_xlabel("denoising step")
    axes.set_xticks(range(0, steps, 1 if steps <= 2 * TICK else TICK * math.ceil(steps / MOST_STEPS_APART)))
    shown = [state for state in STATES if state != "idle" and any(state in row.states for row in timeline.rows)]
    legend = figure.legend(
        handles=[Patch(color=STATE_COLORS[state], label=STATE_LINES[state]) for state in shown],
        loc="outside lower left", ncols=len(shown), frameon=False, title="\n".join(lines), alignment="left",
    )  # fmt: skip
    legend.get_title().set_parse_math(False)
    return figure


def _draw_noise_levels(axes: Axes, timeline: Timeline) -> None:
    """Noise level of every step, as stairs that stand above the cells."""
    levels = timeline.noise_levels or ()
    axes.stairs(levels, np.arange(len(levels) + 1) - 0.5, fill=True, color="#b8c4d0")
    axes.set_ylim(0, max(1.0, *levels))
    axes.set_ylabel("noise level\n(assumed)" if timeline.is_assumed else "noise\nlevel")
    axes.tick_params(axis="x", length=0)
    axes.spines[:].set_visible(False)


def save_figure(path: Path, figure: Figure) -> None:
    """Writes a figure as PNG, atomically.

    Raises:
        FileError: the place cannot be written to.
    """
    write_atomically(path, lambda partial: figure.savefig(partial, format="png", dpi=DPI))
