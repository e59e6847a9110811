from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pabtune.planning.costs.sharing import ALONE, Measured, Sharing, sent_for, shared_seconds
from pabtune.planning.masks import ComputeMask
from pabtune.planning.sharding import Way
from pabtune.records.errors import PolicyError
from pabtune.records.links import Link
from pabtune.records.profiles import Profile
from pabtune.records.sites import Site

STEPS = 6
PROFILE = Path(__file__).parents[3] / "profiles" / "shapes-30steps.json"
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
    way, end = Way(gpus=4), STEPS  # at the end of each call outputs are put together
    assert sent_for(mask(), MEASURED, way).messages == 2 * 2 * STEPS + end
    assert sent_for(mask(temporal=4), MEASURED, way).messages == 2 * 2 * 2 + end
    assert sent_for(mask(spatial=4), MEASURED, way) == sent_for(mask(), MEASURED, way)
    # Two all-to-alls of a quarter, of which three quarters leave.
    assert sent_for(mask(), MEASURED, way).wire_bytes == pytest.approx(12 * 2 * 2000 * 3 / 4)
    assert sent_for(mask(), MEASURED, Way(gpus=8, branches=2)).wire_bytes == pytest.approx(12 * 2 * 1000 * 3 / 4)
    assert sent_for(mask(), MEASURED, Way(gpus=4, parallel="megatron-sp")).wire_bytes == pytest.approx(
        12 * 2 * 8000 * 3 / 4
    )
    assert sent_for(mask(), MEASURED, Way(gpus=2, branches=2)).messages == end
    assert sent_for(mask(), MEASURED, Way()).messages == 0


def test_sites_that_are_not_called_send_nothing() -> None:
    """Of two transformers of which one takes over from the other."""
    seconds = MEASURED.seconds.copy()
    seconds[2, :4] = seconds[3, 4:] = 0
    way = Way(gpus=4)
    halves = replace(MEASURED, seconds=seconds)
    assert sent_for(mask(), halves, way).wire_bytes == pytest.approx(sent_for(mask(), MEASURED, way).wire_bytes / 2)
    assert sent_for(mask(), halves, way).messages == 2 * STEPS + STEPS


def test_branches_that_come_in_turns_send_as_much_in_twice_the_messages() -> None:
    in_turns = replace(MEASURED, calls=2)
    for way in (Way(gpus=4), Way(gpus=4, parallel="ulysses")):
        once, twice = sent_for(mask(), MEASURED, way), sent_for(mask(), in_turns, way)
        assert twice.messages == 2 * once.messages
        assert twice.wire_bytes == pytest.approx(once.wire_bytes)
    split = Way(gpus=8, branches=2)
    assert sent_for(mask(), in_turns, split) == sent_for(mask(), MEASURED, split)


def test_a_policy_for_many_gpus_may_be_another_than_for_one() -> None:
    """On one GPU the two save the same time; over a slow link only one of them saves messages."""
    sharing = Sharing(way=Way(gpus=4), link=LINK)
    spatial, temporal = mask(spatial=4), mask(temporal=4)
    assert shared_seconds(spatial, MEASURED, ALONE) == shared_seconds(temporal, MEASURED, ALONE)
    assert shared_seconds(temporal, MEASURED, sharing) < shared_seconds(spatial, MEASURED, sharing)
    both = Sharing(way=Way(gpus=4), link=LINK, axes=("frames", "tokens"))
    assert shared_seconds(spatial, MEASURED, both) == shared_seconds(temporal, MEASURED, both)


def test_full_attention_sends_queries_keys_values_and_output() -> None:
    full = ComputeMask(sites=(Site(path="b.0.attn", kind="full", layer=0),), compute=np.ones((1, 3), dtype=bool))
    measured = Measured(seconds=np.ones((1, 3)), step_seconds=np.ones(3), site_bytes=[1000.0])
    sent = sent_for(full, measured, Way(gpus=2, axis="sequence"))
    assert (sent.messages, sent.wire_bytes) == (3 * 2 + 3, pytest.approx(3 * 4 * 500 / 2))
    with pytest.raises(PolicyError, match="a model with full has no temporal attention to share"):
        sent_for(full, measured, Way(gpus=2))


def test_a_profile_tells_how_often_its_transformer_is_called(shapes_profile) -> None:
    assert Measured.of(shapes_profile).calls == 1
    in_turns = replace(shapes_profile, made_for=replace(shapes_profile.made_for, model="WanTransformer3DModel"))
    assert Measured.of(in_turns).calls == 2
    assert Measured.of(replace(in_turns, **without_guidance(in_turns))).calls == 1


def without_guidance(profile: Profile) -> dict:
    arrays = {name: array[:, :1] if array.ndim > 2 else array for name, array in profile.arrays.items()}
    return {"branches": profile.branches[:1], "arrays": arrays}


@pytest.fixture
def shapes_profile() -> Profile:
    return Profile.load(PROFILE)


def test_sharing_is_told_as_json() -> None:
    document = Sharing(way=Way(gpus=4, parallel="ulysses"), link=LINK).to_document()
    assert document["gpus"] == 4
    assert document["link"]["name"] == "slow"
