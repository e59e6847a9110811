import numpy as np
import pytest

from pabtune.planning.costs.sharing import ALONE, Measured, Sharing, exchanging_kind, sent_for, shared_seconds
from pabtune.planning.masks import ComputeMask
from pabtune.planning.sharding import Way
from pabtune.records.errors import PolicyError
from pabtune.records.links import Link
from pabtune.records.sites import Site

STEPS = 6
SITES = tuple(
    Site(path=f"{kind}.{i}.x", kind=kind, layer=i) for kind in ("spatial", "temporal", "mlp") for i in range(2)
)
LINK = Link(name="slow", seconds=1e-3, bytes_per_second=1e6)
MEASURED = Measured(
    seconds=np.full((len(SITES), STEPS), 0.1), step_seconds=np.full(STEPS, 1.0), site_bytes=[8000.0] * len(SITES)
)


def mask(**skipped: int) -> ComputeMask:
    """So many of the last steps are broadcast, by kind."""
    compute = np.array([[step < STEPS - skipped.get(site.kind, 0) for step in range(STEPS)] for site in SITES])
    return ComputeMask(sites=SITES, compute=compute)


def test_alone_it_is_the_predicted_time() -> None:
    assert shared_seconds(mask(), MEASURED, ALONE) == pytest.approx(6.0)
    assert shared_seconds(mask(mlp=3), MEASURED, ALONE) == pytest.approx(6.0 - 2 * 3 * 0.1)


def test_what_is_sent_is_what_the_exchanging_attention_computes() -> None:
    way = Way(gpus=4)
    assert sent_for(mask(), [8000.0] * 6, way).messages == 2 * 2 * STEPS
    assert sent_for(mask(temporal=4), [8000.0] * 6, way).messages == 2 * 2 * 2
    assert sent_for(mask(spatial=4), [8000.0] * 6, way) == sent_for(mask(), [8000.0] * 6, way)
    # Two all-to-alls of a quarter, of which three quarters leave.
    assert sent_for(mask(), [8000.0] * 6, way).wire_bytes == pytest.approx(12 * 2 * 2000 * 3 / 4)
    assert sent_for(mask(), [8000.0] * 6, Way(gpus=8, branches=2)).wire_bytes == pytest.approx(12 * 2 * 1000 * 3 / 4)
    assert sent_for(mask(), [8000.0] * 6, Way(gpus=4, parallel="megatron-sp")).wire_bytes == pytest.approx(
        12 * 2 * 8000 * 3 / 4
    )
    assert sent_for(mask(), [8000.0] * 6, Way(gpus=2, branches=2)).messages == 0


def test_a_policy_for_many_gpus_may_be_another_than_for_one() -> None:
    """On one GPU the two save the same time; over a slow link only one of them saves messages."""
    sharing = Sharing(way=Way(gpus=4), link=LINK)
    spatial, temporal = mask(spatial=4), mask(temporal=4)
    assert shared_seconds(spatial, MEASURED, ALONE) == shared_seconds(temporal, MEASURED, ALONE)
    assert shared_seconds(temporal, MEASURED, sharing) < shared_seconds(spatial, MEASURED, sharing)
    both = Sharing(way=Way(gpus=4), link=LINK, axes=("frames", "tokens"))
    assert shared_seconds(spatial, MEASURED, both) == shared_seconds(temporal, MEASURED, both)


def test_full_attention_exchanges_where_there_is_no_other() -> None:
    assert exchanging_kind(["full", "cross"], Way(gpus=2)) == "full"
    full = ComputeMask(sites=(Site(path="b.0.attn", kind="full", layer=0),), compute=np.ones((1, 3), dtype=bool))
    sent = sent_for(full, [1000.0], Way(gpus=2))
    assert (sent.messages, sent.wire_bytes) == (6, pytest.approx(3 * 4 * 500 / 2))
    with pytest.raises(PolicyError, match="a model with mlp has no attention that several GPUs can share"):
        exchanging_kind(["mlp"], Way(gpus=2))


def test_sharing_is_told_as_json() -> None:
    document = Sharing(way=Way(gpus=4, parallel="ulysses"), link=LINK).to_document()
    assert document["gpus"] == 4
    assert document["link"]["name"] == "slow"
