"""The data of figures, exactly; and that drawing shows it."""

from dataclasses import replace

import numpy as np
import pytest

from pabtune.planning.timelines import STATES, timeline_of
from pabtune.planning.windows import windows_of
from pabtune.records.policies import MadeFor, Policy
from pabtune.records.trials import Candidate
from pabtune.report.figures import (
    HIGHEST_PSNR_DB,
    MEASURES,
    STATE_COLORS,
    curves_data,
    distances_data,
    draw_curves,
    draw_distances,
    draw_heat_map,
    draw_pareto,
    draw_timeline,
    heat_map_data,
    pareto_data,
    save_figure,
)
from pabtune.report.timeline_text import name_of
from tests.cli.conftest import FRONT_POLICY
from tests.planning.test_curves import two_contents
from tests.planning.test_timelines import EVERY_KIND
from tests.records.test_profiles import make_profile
from tests.records.test_trials import MEASURED, outcome

U = np.concatenate([[0.0], np.full(3, 9.0), np.full(6, 1.0), np.full(2, 9.0)])


def u_shaped():
    """A profile whose spatial sites have a stable window, and whose MLPs have none."""
    profile = make_profile(12)
    change = np.zeros_like(profile.arrays["change"])
    change[:, :, 0], change[:, :, 1] = U, np.tile([9.0, 9.0, 9.0, 1.0, 1.0, 1.0], 2)
    return replace(profile, arrays={**profile.arrays, "change": change})


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("content", [None, "fast"])
def test_curves_are_the_means_of_what_was_measured(measure, content) -> None:
    """Fault 27: figures of zeros passed."""
    profile = two_contents()
    data = curves_data(profile, content, measure)
    values = profile.arrays[measure] if content is None else profile.arrays[measure][1:]
    assert list(data.curves) == ["spatial", "mlp"]
    for row, curve in enumerate(data.curves.values()):
        np.testing.assert_allclose(curve, values.mean((0, 1))[row, 1:], rtol=1e-5)
    assert data.windows == windows_of(profile)[content or "all"]
    assert data.label == MEASURES[measure]


def test_curves_and_windows_are_drawn() -> None:
    """Fault 27: what is drawn is the data."""
    data = curves_data(u_shaped())
    assert (data.windows["spatial"].start, data.windows["spatial"].stop) == (4, 10)
    curves, bars = draw_curves(data).axes
    assert [line.get_label() for line in curves.lines] == ["spatial", "mlp"]
    for line, curve in zip(curves.lines, data.curves.values(), strict=True):
        np.testing.assert_array_equal(line.get_xdata(), range(1, 12))
        np.testing.assert_array_equal(line.get_ydata(), curve)
    assert [(bar.get_x(), bar.get_width()) for bar in bars.patches] == [(3.5, 6)]
    assert [text.get_text() for text in bars.texts] == ["mlp: no stable window"]


def test_a_heat_map_holds_every_layer_and_step() -> None:
    """Fault 27: figures of zeros passed."""
    profile = u_shaped()
    data = heat_map_data(profile, "spatial")
    assert data.rows == ("spatial_blocks.0.attn",)
    np.testing.assert_allclose(data.values, np.log10(U[None, 1:]), atol=1e-6)
    image = draw_heat_map(data).axes[0].images[0]
    np.testing.assert_array_equal(image.get_array(), data.values)
    assert image.get_extent() == [0.5, 11.5, 1, 0]


def test_distances_are_those_of_any_two_steps() -> None:
    """Fault 27: figures of zeros passed."""
    profile = two_contents()
    data = distances_data(profile, "mlp")
    np.testing.assert_allclose(data.values, profile.arrays["distance"].mean((0, 1))[1], rtol=1e-5)
    np.testing.assert_array_equal(draw_distances(data).axes[0].images[0].get_array(), data.values)


def trial(number: int, time: float, psnr_db: float, drop: float = 0.0, origin: str = "sampler", **changes) -> Candidate:
    tried = replace(outcome(**changes), predicted_time=time)
    if tried.measured is not None:
        tried = replace(tried, measured=replace(MEASURED, psnr_db=psnr_db, drop=drop))
    return Candidate(number=number, origin=origin, policy=None, parameters={}, outcome=tried)  # type: ignore[arg-type]


TRIALS = [
    trial(0, 1.0, 100.0, origin="no broadcast"),
    trial(1, 0.7, 40.0, 0.25, origin="preset pab246"),
    trial(2, 0.8, 35.0),
    trial(3, 0.4, 20.0, 3.0, status="stopped early"),
    trial(4, 0.5, 30.0, 1.0),
    trial(5, 0.2, 0.0, status="over memory", measured=None),
]


def test_the_front_joins_what_no_other_trial_beats() -> None:
    data = pareto_data(TRIALS)
    assert [(point.predicted_time, point.psnr_db) for point in data.front] == [
        (0.5, 30.0), (0.7, 40.0), (1.0, HIGHEST_PSNR_DB),
    ]  # fmt: skip


def test_every_trial_that_drew_videos_is_a_point() -> None:
    """Fault 27: figures of zeros passed."""
    points = pareto_data(TRIALS).points
    assert [(point.predicted_time, point.drop, point.psnr_db) for point in points] == [
        (1.0, 0.0, HIGHEST_PSNR_DB), (0.7, 0.25, 40.0), (0.8, 0.0, 35.0), (0.4, 3.0, 20.0), (0.5, 1.0, 30.0),
    ]  # fmt: skip
    assert [point.is_preset for point in points] == [False, True, False, False, False]
    assert [point.is_feasible for point in points] == [True, True, True, False, True]


def test_points_and_front_are_drawn() -> None:
    """Fault 27: what is drawn is the data."""
    data = pareto_data(TRIALS)
    for axes, measure in zip(draw_pareto(data).axes, ("drop", "psnr_db"), strict=True):
        *marks, front = axes.lines
        assert [(mark.get_xdata()[0], mark.get_ydata()[0]) for mark in marks] == [
            (point.predicted_time, getattr(point, measure)) for point in data.points
        ]
        assert [mark.get_fillstyle() for mark in marks] == ["full", "full", "full", "none", "full"]
        assert [mark.get_marker() for mark in marks] == ["o", "s", "o", "o", "o"]
        assert list(front.get_xdata()) == [0.5, 0.7, 1.0]
        assert list(front.get_ydata()) == [getattr(point, measure) for point in data.front]


def test_a_timeline_is_drawn_cell_by_cell() -> None:
    timeline = timeline_of(EVERY_KIND)
    (axes,) = draw_timeline(timeline).axes
    cells = axes.collections[0].get_array()
    assert [[STATES[code] for code in row] for row in cells] == [list(row.states) for row in timeline.rows]
    assert [label.get_text() for label in axes.get_yticklabels()] == [name_of(timeline, row) for row in timeline.rows]
    assert axes.yaxis_inverted()
    colors = axes.collections[0].cmap.colors
    assert [colors[code] for code in cells[0][:5]] == [
        STATE_COLORS[state] for state in ("compute", "compute", "half", "compute", "broadcast")
    ]


def test_noise_levels_and_summary_stand_around_a_timeline() -> None:
    policy = Policy.load(FRONT_POLICY)
    timeline = timeline_of(policy)
    figure = draw_timeline(timeline)
    levels, _ = figure.axes
    np.testing.assert_array_equal(levels.patches[0].get_data().values, timeline.noise_levels)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["computes", "broadcasts"]
    assert f"mean PSNR {policy.evidence['fidelity']['psnr_db']:.2f} dB" in legend.get_title().get_text()


@pytest.mark.parametrize(("steps", "ticks"), [(1, [0]), (4, [0, 1, 2, 3]), (12, [0, 5, 10]), (130, range(0, 130, 10))])
def test_ticks_are_whole_steps(steps, ticks) -> None:
    axes = draw_timeline(timeline_of(Policy(name="none"), steps)).axes[0]
    assert axes.get_xticks().tolist() == list(ticks)


def test_a_name_is_no_formula(tmp_path) -> None:
    save_figure(tmp_path / "t.png", draw_timeline(timeline_of(Policy(name="$x_{$ a", made_for=MadeFor(model="$^$")))))
    assert (tmp_path / "t.png").read_bytes().startswith(b"\x89PNG")


def test_titles_are_no_formulas_either(tmp_path) -> None:
    data = replace(curves_data(u_shaped()), title="x\\y$z_$")
    save_figure(tmp_path / "c.png", draw_curves(data))
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
