"""A comparison of methods as a table in Markdown, and as a figure: its data first, then the drawing of these."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib import colormaps
from matplotlib.figure import Figure

from pabtune.records.comparisons import ComparedSetting, MethodsComparison, mean

OURS = "pabtune"
"""How methods begin that are drawn in black, in front of the others; what was found before is dashed."""

PANELS: Mapping[str, str] = {
    "psnr_db": "PSNR to the full run, mean, dB",
    "worst_psnr_db": "PSNR to the full run, worst video, dB",
    "ssim": "SSIM to the full run, mean",
    "score": "score, mean",
}
"""What is drawn over the measured time, and the label of its axis."""

MARKERS = "osD^v<>Pp*Xhd"


HIGHEST_DRAWN_DB = 70.0
"""PSNR at which curves are cut: identical videos have 100."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonPoint:
    """A method at one setting.

    Attributes:
        time_share: measured time over that of the full run.
        values: by panel, as it is drawn; the score is missing where none was taken.
    """

    time_share: float
    values: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonData:
    """Points of each method by measured time, and the score of the full run; None = none was taken."""

    title: str
    curves: Mapping[str, Sequence[ComparisonPoint]]
    full_score: float | None


def as_markdown(comparison: MethodsComparison) -> str:
    """Two tables in Markdown, a row for each method: mean and worst PSNR at each share of the compute, and of the time."""
    shares = sorted({each.share for each in comparison.settings if each.share is not None}, reverse=True)
    heads = " | ".join([f"{share:.2f}" for share in shares] or ["at the least"])
    by_compute = [
        f"| PSNR dB, mean / worst of {comparison.prompts} | {heads} | calibration |",
        "|---" * (heads.count("|") + 3) + "|",
    ]
    by_time = [f"| within the measured time | {heads} |", "|---" * (heads.count("|") + 2) + "|"]
    within = [{each.method: each for each in comparison.within_time(share)} for share in shares]
    for method in dict.fromkeys(each.method for each in comparison.settings):
        of_method = [each for each in comparison.settings if each.method == method]
        at = {each.share: each for each in of_method if each.share_of == "compute"}
        cells = [_psnrs(at.get(share)) for share in shares]
        if None in at:
            cells[:1] = [f"{_psnrs(at[None])} at {at[None].evaluation.compute_fraction:.2f}"]
        cost = of_method[0].calibration
        by_compute.append(
            f"| {method} | {' | '.join(cells)} | {cost.videos:.0f} videos, {cost.bytes / 2**20:.1f} MiB |"
        )
        by_time.append(f"| {method} | {' | '.join([_psnrs(each.get(method)) for each in within] or ['-'])} |")
    by_compute += [f"| {method} | {reason} |" for method, reason in comparison.unfit.items()]
    return "\n".join([*by_compute, "", *by_time]) + "\n"


def _psnrs(compared: ComparedSetting | None) -> str:
    if compared is None:
        return "-"
    psnrs = compared.evaluation.psnr_db
    return f"{mean(psnrs):.1f} / {min(psnrs):.1f}"


def comparison_data(comparison: MethodsComparison) -> ComparisonData:
    """Points of each method, each setting once, by measured time."""
    curves: dict[str, dict[float, ComparisonPoint]] = {}
    for each in comparison.settings:
        curves.setdefault(each.method, {})[each.setting] = _point(each)
    scored = [each.evaluation for each in comparison.settings if each.evaluation.scores]
    return ComparisonData(
        title=f"{comparison.model}: {comparison.prompts} unseen prompts, {comparison.steps} steps in the full run",
        curves={
            method: sorted(points.values(), key=lambda point: point.time_share) for method, points in curves.items()
        },
        full_score=mean([mean(evaluation.baseline_scores) for evaluation in scored]) if scored else None,
    )


def _point(compared: ComparedSetting) -> ComparisonPoint:
    evaluation = compared.evaluation
    values = {
        "psnr_db": min(mean(evaluation.psnr_db), HIGHEST_DRAWN_DB),
        "worst_psnr_db": min(*evaluation.psnr_db, HIGHEST_DRAWN_DB),
        "ssim": mean(evaluation.ssim),
    }
    if evaluation.scores:
        values["score"] = mean(evaluation.scores)
    return ComparisonPoint(time_share=compared.time_share, values=values)


def draw_comparison(data: ComparisonData) -> Figure:
    """A panel for each measure, a curve for each method; without a score its panel is left out."""
    panels = [name for name in PANELS if name != "score" or data.full_score is not None]
    figure = Figure(figsize=(6 * len(panels) / 2 + 1, 9), layout="constrained")
    colors = colormaps["tab20"]
    for axes, panel in zip(figure.subplots(2, (len(panels) + 1) // 2).flat, panels, strict=False):
        for index, (method, points) in enumerate(data.curves.items()):
            is_ours = method.startswith(OURS)
            axes.plot(
                [point.time_share for point in points if panel in point.values],
                [point.values[panel] for point in points if panel in point.values],
                marker=MARKERS[index % len(MARKERS)],
                color="black" if is_ours else colors(index % 20),
                linestyle="--" if is_ours and method != OURS else "-",
                linewidth=2.5 if is_ours else 1.2,
                zorder=3 if is_ours else 2,
                label=method,
            )
        if panel == "score" and data.full_score is not None:
            axes.axhline(data.full_score, color="gray", linestyle=":", label="full run")
        axes.set_xlabel("measured time / full run")
        axes.set_ylabel(PANELS[panel])
        axes.grid(alpha=0.3)
    figure.suptitle(data.title, parse_math=False)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=6, frameon=False)
    return figure
