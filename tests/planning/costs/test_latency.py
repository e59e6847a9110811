import pytest

from pabtune.planning.costs.communication import Communication
from pabtune.planning.costs.latency import LINKS, Link, predicted_latency
from pabtune.records.errors import PolicyError

NOTHING = Communication(paper_bytes=0, wire_bytes=0, messages=0)
LINK = Link(seconds=1e-3, bytes_per_second=1e9)


def test_shared_work_is_divided_and_the_rest_is_not() -> None:
    assert predicted_latency(8e12, 1e12, 1, NOTHING, 1e12, LINK) == pytest.approx(9.0)
    assert predicted_latency(8e12, 1e12, 8, NOTHING, 1e12, LINK) == pytest.approx(2.0)


def test_messages_take_their_time_and_their_bytes() -> None:
    sent = Communication(paper_bytes=0, wire_bytes=2e9, messages=500)
    assert predicted_latency(0, 0, 2, sent, 1e12, LINK) == pytest.approx(0.5 + 2.0)


def test_slower_links_are_slower() -> None:
    sent = Communication(paper_bytes=0, wire_bytes=12e9, messages=1000)
    seconds = [predicted_latency(1e15, 0, 8, sent, 1e14, link) for link in LINKS.values()]
    assert seconds[0] == min(seconds)
    assert seconds[-1] == max(seconds)


def test_a_device_that_does_not_compute_is_refused() -> None:
    with pytest.raises(PolicyError, match="more than 0 FLOPs per second, not 0"):
        predicted_latency(1, 1, 1, NOTHING, 0, LINK)
