"""Figures of profiles and searches, drawn from records."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from pabtune.records.profiles import Profile
from pabtune.tuning.profile import ALL_CONTENTS, kind_curves, mean_of_known
from pabtune.tuning.results import Candidate, pareto_front

KIND_COLORS = {"spatial": "C0", "temporal": "C1", "cross": "C2", "full": "C4", "mlp": "C3"}


def draw_curves(profile: Profile, content: str | None = None) -> Figure:
    """Change of each kind's outputs from the step before, over the steps, with its stable window as a bar below."""
    rows = [profile.contents.index(content)] if content else list(range(len(profile.contents)))
    change = mean_of_known(profile.arrays["change"][rows], (0, 1))
    windows = profile.windows[content or ALL_CONTENTS]
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    curves_axes, windows_axes = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    kinds = kind_curves(change, profile.sites)
    for place, (kind, curve) in enumerate(kinds.items()):
        color = KIND_COLORS[kind]
        curves_axes.plot(range(1, profile.steps), curve[1:], color=color, label=kind, marker=".")
        window = windows[kind]
        if window.start is not None and window.stop is not None:
            windows_axes.barh(place, window.stop - window.start, left=window.start - 0.5, color=color, height=0.7)
        else:
            windows_axes.text(
                profile.steps / 2, place, f"{kind}: no stable window", ha="center", va="center", color=color
            )
    curves_axes.set_yscale("log")
    curves_axes.set_ylabel("squared change from the step\nbefore / output squared")
    curves_axes.set_title(f"{profile.name}: {content or 'all contents'}")
    curves_axes.legend()
    curves_axes.grid(alpha=0.3)
    windows_axes.set_yticks(range(len(kinds)), list(kinds))
    windows_axes.set_xlabel("denoising step")
    windows_axes.set_ylabel("stable\nwindow")
    return figure


def draw_heat_map(profile: Profile, kind: str) -> Figure:
    """Change of one kind's outputs, layer by step, all contents and branches."""
    rows = [index for index, site in enumerate(profile.sites) if site.kind == kind]
    change = mean_of_known(profile.arrays["change"], (0, 1))[rows, 1:]
    figure = Figure(figsize=(8, 0.35 * len(rows) + 1.6), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(
        np.log10(np.maximum(change, 1e-12)), aspect="auto", extent=(0.5, profile.steps - 0.5, len(rows), 0)
    )
    axes.set_yticks(np.arange(len(rows)) + 0.5, [profile.sites[row].path for row in rows], fontsize=7)
    axes.set_xlabel("denoising step")
    axes.set_title(f"{kind}: log10 of the change from the step before")
    figure.colorbar(image)
    return figure


def draw_distances(profile: Profile, kind: str) -> Figure:
    """Relative squared distance of one kind's outputs between any two steps."""
    rows = [index for index, site in enumerate(profile.sites) if site.kind == kind]
    distance = mean_of_known(mean_of_known(profile.arrays["distance"], (0, 1))[rows], 0)
    figure = Figure(figsize=(5, 4.2), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(distance, vmin=0)
    axes.set_title(f"{kind}: distance between steps")
    axes.set_xlabel("denoising step")
    axes.set_ylabel("denoising step")
    figure.colorbar(image)
    return figure


def draw_pareto(candidates: Sequence[Candidate]) -> Figure:
    """Time against lost points and against fidelity, one dot per trial; feasible ones filled, the front joined."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    for axes, measure, label in zip(
        figure.subplots(1, 2),
        ("drop", "psnr_db"),
        ("lost points of the score", "PSNR to the reference, dB"),
        strict=True,
    ):
        for candidate in candidates:
            outcome = candidate.outcome
            axes.plot(
                outcome.predicted_time,
                min(getattr(outcome, measure), 60.0),
                marker="s" if candidate.origin.startswith("preset") else "o",
                color="C3" if candidate.origin.startswith("preset") else "C0",
                fillstyle="full" if outcome.is_feasible else "none",
                linestyle="",
            )
        front = pareto_front(candidates)
        axes.plot(
            [c.outcome.predicted_time for c in front], [min(getattr(c.outcome, measure), 60.0) for c in front], "k:"
        )
        axes.set_xlabel("predicted time / full run")
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
    figure.suptitle("trials: squares are presets, filled = within the budget and above the fidelity floor")
    return figure
