import pytest
import torch

import pabtune
from pabtune.planning.costs.memory import SITES_AHEAD
from pabtune.records.errors import PolicyError
from pabtune.runtime.offload import CpuOffloader, Offloaded
from tests.conftest import draw, pyramid


class Calls:
    """What a ferry carries outputs for."""

    def __init__(self, *outputs) -> None:
        self.outputs = outputs


@pytest.fixture
def fetches(monkeypatch) -> list[object]:
    """What is fetched, in order."""
    fetches_seen, fetch = [], CpuOffloader._fetch
    monkeypatch.setattr(CpuOffloader, "_fetch", lambda self, each: (fetches_seen.append(each), fetch(self, each))[1])
    return fetches_seen


def test_outputs_are_fetched_ahead_in_the_order_of_calls_and_never_more_than_that(fetches) -> None:
    ferry = CpuOffloader()
    sites = [Calls(ferry.save(torch.full((2,), float(index)))) for index in range(5)]
    ids = {id(site) for site in sites}
    ferry.begin(set())
    for site in reversed(sites):
        ferry.record(site)
    ferry.begin(ids)
    order = list(reversed(sites))
    for index, site in enumerate(order):
        assert fetches == [each.outputs[0] for each in order[: index + SITES_AHEAD]]
        ferry.record(site)
        assert (ferry.fetch(site, 0) == site.outputs[0].values).all()
    assert len(fetches) == 5
    assert not ferry._fetched


def test_another_order_or_another_site_is_served_all_the_same(fetches) -> None:
    ferry = CpuOffloader()
    first, second, third = (Calls(ferry.save(torch.tensor(float(index)))) for index in range(3))
    ferry.begin(set())
    ferry.record(first)
    ferry.record(second)
    ferry.begin({id(first), id(second), id(third)})
    for site in (third, second, first):
        assert ferry.fetch(site, 0) == site.outputs[0].values


def test_tuples_and_several_calls_come_back_whole() -> None:
    ferry = CpuOffloader()
    site = Calls(ferry.save((torch.ones(2), None, [torch.zeros(3)])), ferry.save(torch.tensor(5.0)))
    assert isinstance(site.outputs[0][0], Offloaded)
    ferry.record(site)
    ferry.begin({id(site)})
    ones, nothing, (zeros,) = ferry.fetch(site, 0)
    assert nothing is None
    assert (ones == 1).all()
    assert (zeros == 0).all()
    assert ferry.fetch(site, 1) == 5
    assert not ferry._fetched


@pytest.mark.parametrize("batched", [True, False])
def test_a_run_that_keeps_outputs_on_the_host_gives_the_same_video(pipeline, batched) -> None:
    with pabtune.broadcast(pipeline, pyramid()) as run:
        expected, calls = draw(pipeline, batched_guidance=batched), run.summary()["broadcast_calls"]
    with pabtune.broadcast(pipeline, pyramid(), store="host") as run:
        assert (draw(pipeline, batched_guidance=batched) == expected).all()
        assert (draw(pipeline, batched_guidance=batched) == expected).all()
        assert run.summary()["broadcast_calls"] == calls
        assert run.stored_bytes == 0


def test_the_device_holds_a_few_outputs_of_those_on_the_host(pipeline) -> None:
    held = {}
    for store in ("exact", "host"):
        with pabtune.broadcast(pipeline, pyramid(), memory=2**40, store=store) as run:
            draw(pipeline)
        held[store] = run.predicted_bytes.max()
    output = 2 * 8 * 36 * 24 * 4  # samples, frames, tokens, width, bytes
    assert held["host"] == (SITES_AHEAD + 1) * output < held["exact"]
    with pabtune.broadcast(pipeline, pyramid(), memory=int(held["host"]), store="host"):
        draw(pipeline)
    with (
        pabtune.broadcast(pipeline, pyramid(), memory=int(held["host"]) - 1, store="host"),
        pytest.raises(PolicyError, match="more than the limit"),
    ):
        draw(pipeline)


def test_a_compiled_model_is_refused(pipeline) -> None:
    pipeline.transformer.compile(backend="eager")
    with (
        pabtune.broadcast(pipeline, pyramid(), store="host"),
        pytest.raises(PolicyError, match="compiled model cannot fetch outputs from the host"),
    ):
        draw(pipeline)
