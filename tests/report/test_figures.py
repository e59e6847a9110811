import numpy as np

from pabtune.report.figures import draw_curves, draw_distances, draw_heat_map
from tests.records.test_profiles import make_profile


def test_figures_show_what_the_profile_holds(tmp_path) -> None:
    profile = make_profile()
    windows = {
        content: {kind: profile.windows["all"]["spatial"] for kind in ("spatial", "mlp")}
        for content in ("all", "still")
    }
    object.__setattr__(profile, "windows", windows)
    curves, bars = draw_curves(profile).axes
    assert [line.get_label() for line in curves.lines] == ["spatial", "mlp"]
    spatial = profile.arrays["change"].mean((0, 1))[0, 1:]
    np.testing.assert_allclose(curves.lines[0].get_ydata(), spatial)
    assert [bar.get_width() for bar in bars.patches] == [3, 3]
    for kind in ("spatial", "mlp"):
        draw_heat_map(profile, kind).savefig(tmp_path / "heat.png")
        draw_distances(profile, kind).savefig(tmp_path / "distance.png")
    assert (tmp_path / "heat.png").stat().st_size > 1000
