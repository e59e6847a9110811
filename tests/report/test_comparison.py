"""The figure of a comparison."""

from dataclasses import replace

from pabtune.records.comparisons import CalibrationCost, ComparedSetting, MethodsComparison
from pabtune.records.evaluations import Evaluation
from pabtune.report.comparison import HIGHEST_DRAWN_DB, PANELS, as_markdown, comparison_data, draw_comparison
from pabtune.report.figures import save_figure

EVALUATION = Evaluation(
    policy="p", compute_fraction=0.5, latency_s=1.0, baseline_latency_s=2.0, psnr_db=(28.0, 40.0), ssim=(0.9, 1.0),
    score_name="shapes", baseline_scores=(90.0, 80.0), scores=(89.0, 80.0), computed_calls={}, broadcast_calls={},
    most_stored_bytes=0,
)  # fmt: skip
SETTING = ComparedSetting(
    method="fora", knob="interval", setting=2, share=0.63, tuned_psnr_db=34.0, evaluation=EVALUATION,
    calibration=CalibrationCost(videos=8, seconds=1.5, bytes=10),
)  # fmt: skip


def comparison(*settings: ComparedSetting) -> MethodsComparison:
    return MethodsComparison(
        model="small", steps=30, prompts=2, calibration_prompts=1, settings=settings, unfit={}, environment={}
    )


def test_each_setting_is_one_point_by_measured_time() -> None:
    faster = replace(SETTING, setting=3, evaluation=replace(EVALUATION, latency_s=0.5))
    data = comparison_data(comparison(SETTING, replace(SETTING, share=0.5), faster))
    assert [point.time_share for point in data.curves["fora"]] == [0.25, 0.5]
    assert data.curves["fora"][0].values == {"psnr_db": 34.0, "worst_psnr_db": 28.0, "ssim": 0.95, "score": 84.5}
    assert data.full_score == 85.0
    assert SETTING.poor_share == 0.5


def test_within_a_share_of_the_time_the_setting_that_was_tuned_closest_counts() -> None:
    """Not the one that came out closest on the unseen prompts."""
    faster = replace(SETTING, setting=3, evaluation=replace(EVALUATION, latency_s=0.5), tuned_psnr_db=20.0)
    other = replace(SETTING, method="pab", evaluation=replace(EVALUATION, psnr_db=(50.0, 50.0)))
    made = comparison(faster, SETTING, other)
    assert made.within_time(0.5) == [other, SETTING]
    assert made.within_time(0.3) == [faster]
    assert made.within_time(0.1) == []


def test_videos_that_hardly_differ_are_drawn_at_the_highest() -> None:
    same = replace(EVALUATION, psnr_db=(100.0, 100.0))
    values = comparison_data(comparison(replace(SETTING, evaluation=same))).curves["fora"][0].values
    assert values["psnr_db"] == values["worst_psnr_db"] == HIGHEST_DRAWN_DB


def test_a_panel_for_each_measure_and_none_for_a_score_that_was_not_taken(tmp_path) -> None:
    ours = replace(SETTING, method="pabtune")
    figure = draw_comparison(comparison_data(comparison(SETTING, ours)))
    assert [axes.get_ylabel() for axes in figure.axes if axes.lines] == list(PANELS.values())
    assert [line.get_label() for line in figure.axes[0].lines] == ["fora", "pabtune"]
    save_figure(tmp_path / "f.png", figure)
    assert (tmp_path / "f.png").stat().st_size > 10_000
    unscored = replace(SETTING, evaluation=replace(EVALUATION, scores=(), baseline_scores=()))
    figure = draw_comparison(comparison_data(comparison(unscored)))
    assert len([axes for axes in figure.axes if axes.lines]) == 3


def test_nothing_to_draw_is_drawn_all_the_same() -> None:
    assert draw_comparison(comparison_data(comparison())).axes


def test_rows_in_markdown_for_each_method() -> None:
    cheapest = replace(
        SETTING, method="pab", share=None, evaluation=replace(EVALUATION, compute_fraction=0.8, latency_s=1.2)
    )
    made = replace(comparison(SETTING, replace(SETTING, method="tgate", share=0.5), cheapest), unfit={"x": "no blocks"})
    assert as_markdown(made).splitlines() == [
        "| PSNR dB, mean / worst of 2 | 0.63 | 0.50 | calibration |",
        "|---|---|---|---|",
        "| fora | 34.0 / 28.0 | - | 8 videos, 0.0 MiB |",
        "| tgate | - | 34.0 / 28.0 | 8 videos, 0.0 MiB |",
        "| pab | 34.0 / 28.0 at 0.80 | - | 8 videos, 0.0 MiB |",
        "| x | no blocks |",
        "",
        "| within the measured time | 0.63 | 0.50 |",
        "|---|---|---|",
        "| fora | 34.0 / 28.0 | 34.0 / 28.0 |",
        "| tgate | 34.0 / 28.0 | 34.0 / 28.0 |",
        "| pab | 34.0 / 28.0 | - |",
    ]


def test_methods_that_reach_no_share_have_a_table_too() -> None:
    """A comparison of PAB alone ended in an IndexError."""
    cheapest = replace(SETTING, method="pab", share=None, evaluation=replace(EVALUATION, compute_fraction=0.8))
    assert as_markdown(comparison(cheapest)).splitlines() == [
        "| PSNR dB, mean / worst of 2 | at the least | calibration |",
        "|---|---|---|",
        "| pab | 34.0 / 28.0 at 0.80 | 8 videos, 0.0 MiB |",
        "",
        "| within the measured time | at the least |",
        "|---|---|",
        "| pab | - |",
    ]
