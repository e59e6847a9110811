import numpy as np
import pytest

from pabtune.planning.costs.communication import NOTHING, Communication
from pabtune.planning.costs.latency import Rates, fit_interconnect, measured_rates, predicted_latency
from pabtune.records.errors import PolicyError
from pabtune.records.interconnects import INTERCONNECTS, Interconnect
from pabtune.records.sites import Site

LINK = Interconnect(name="slow", latency_s=1e-3, bytes_per_second=1e9)


def test_shared_work_is_divided_and_the_rest_is_not() -> None:
    assert predicted_latency(8, 1, 1, NOTHING, LINK) == pytest.approx(9.0)
    assert predicted_latency(8, 1, 1 / 8, NOTHING, LINK) == pytest.approx(2.0)


def test_messages_take_their_time_and_their_bytes() -> None:
    sent = Communication(paper_bytes=0, wire_bytes=2e9, messages=500)
    assert predicted_latency(0, 0, 1 / 2, sent, LINK) == pytest.approx(0.5 + 2.0)


def test_slower_links_are_slower() -> None:
    sent = Communication(paper_bytes=0, wire_bytes=12e9, messages=1000)
    seconds = [predicted_latency(10, 0, 1 / 8, sent, link) for link in INTERCONNECTS.values()]
    assert seconds[0] == min(seconds)
    assert seconds[-1] == max(seconds)


def test_kinds_compute_at_their_own_rates() -> None:
    rates = Rates(overall=3.0, rest=2.0, kinds={"temporal": 1.0})
    assert rates.seconds(10.0, {"temporal": 4.0, "mlp": 2.0}) == pytest.approx(4.0 + 1.0 + 2.0)
    with pytest.raises(PolicyError, match="more than 0 FLOPs per second, not 0"):
        Rates(overall=1, rest=0)


def test_the_rates_of_a_profile_give_back_its_times() -> None:
    sites = tuple(Site(path=f"b.{i}.x", kind=kind, layer=i) for i, kind in enumerate(("spatial", "mlp", "mlp")))
    seconds = np.array([[2.0, 2.0, 9.0], [1.0, 1.0, 1.0], [3.0, 3.0, 3.0]])
    rates = measured_rates(sites, (10, 40, 40), 100, seconds, np.array([8.0, 8.0, 8.0]))
    assert rates.kinds == {"spatial": 5.0, "mlp": 20.0}
    assert rates.overall == 100 / 8
    assert rates.seconds(100, {"spatial": 10, "mlp": 80}) == pytest.approx(8.0)


def test_a_link_is_fitted_to_what_was_measured() -> None:
    sizes = [2.0**power for power in range(10, 27, 2)]
    per_message, per_second = fit_interconnect(sizes, [20e-6 + size / 3e9 for size in sizes])
    assert per_message == pytest.approx(20e-6, rel=1e-6)
    assert per_second == pytest.approx(3e9, rel=1e-6)
    noisy = np.random.default_rng(0).uniform(0.8, 1.25, len(sizes))
    per_message, per_second = fit_interconnect(
        sizes, [(20e-6 + size / 3e9) * n for size, n in zip(sizes, noisy, strict=True)]
    )
    assert per_message == pytest.approx(20e-6, rel=0.3)
    assert per_second == pytest.approx(3e9, rel=0.3)


@pytest.mark.parametrize("seconds", [[1e-3] * 4, [4e-3, 3e-3, 2e-3, 1e-3]])
def test_neither_figure_of_a_link_is_below_nothing(seconds) -> None:
    """Where larger messages took no longer, bytes are taken to cost nothing that could be seen."""
    per_message, per_second = fit_interconnect([1e3, 1e4, 1e5, 1e6], seconds)
    assert per_message >= 0
    assert per_second > 0
    assert np.isfinite(per_second)
