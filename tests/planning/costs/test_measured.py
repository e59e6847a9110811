from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pabtune.catalog import CATALOG
from pabtune.planning.costs.measured import Measured, outputs_sent, parallel_seconds, sent_for
from pabtune.planning.layouts import AXES
from pabtune.planning.masks import ComputeMask
from pabtune.records.errors import PolicyError
from pabtune.records.interconnects import Interconnect
from pabtune.records.layouts import ONE_GPU, ParallelLayout
from pabtune.records.profiles import Call, Profile
from pabtune.records.sites import Site

STEPS = 6
PROFILE = Path(__file__).parents[3] / "profiles" / "shapes-30steps.json"
SITES = tuple(
    Site(path=f"{kind}.{i}.x", kind=kind, layer=i) for kind in ("spatial", "temporal", "mlp") for i in range(2)
)
LINK = Interconnect(name="slow", latency_s=1e-3, bytes_per_second=1e6)
MEASURED = Measured(
    seconds=np.full((len(SITES), STEPS), 0.1), step_seconds=np.full(STEPS, 1.0), site_bytes=[8000.0] * len(SITES)
)


def mask(**skipped: int) -> ComputeMask:
    """So many of the last steps are broadcast, by kind."""
    compute = np.array([[step < STEPS - skipped.get(site.kind, 0) for step in range(STEPS)] for site in SITES])
    return ComputeMask(sites=SITES, compute=compute)


def test_alone_it_is_the_predicted_time() -> None:
    assert parallel_seconds(mask(), MEASURED, ONE_GPU, LINK) == pytest.approx(6.0)
    assert parallel_seconds(mask(mlp=3), MEASURED, ONE_GPU, LINK) == pytest.approx(6.0 - 2 * 3 * 0.1)


def test_what_is_sent_is_what_the_exchanging_attention_computes() -> None:
    layout = ParallelLayout.over(4, axis="frames")
    assert sent_for(mask(), MEASURED, layout).messages == 2 * 2 * STEPS
    assert sent_for(mask(temporal=4), MEASURED, layout).messages == 2 * 2 * 2
    assert sent_for(mask(spatial=4), MEASURED, layout) == sent_for(mask(), MEASURED, layout)
    # Two all-to-alls of a quarter, of which three quarters leave.
    assert sent_for(mask(), MEASURED, layout).wire_bytes == pytest.approx(12 * 2 * 2000 * 3 / 4)
    assert sent_for(mask(), MEASURED, ParallelLayout.over(8, branches=2, axis="frames")).wire_bytes == pytest.approx(
        12 * 2 * 1000 * 3 / 4
    )
    assert sent_for(
        mask(), MEASURED, ParallelLayout.over(4, exchange="megatron-sp", axis="frames")
    ).wire_bytes == pytest.approx(12 * 2 * 8000 * 3 / 4)
    assert sent_for(mask(), MEASURED, ParallelLayout.over(2, branches=2)).messages == 0


@pytest.mark.parametrize(
    ("layout", "calls", "messages"),
    [
        (ONE_GPU, 1, 0),
        (ParallelLayout.over(4, axis="frames"), 1, 1),
        (ParallelLayout.over(4, axis="frames"), 2, 2),
        (ParallelLayout.over(2, branches=2), 2, 1),
        (ParallelLayout.over(4, branches=2, axis="frames"), 2, 2),
        (ParallelLayout.over(4, branches=2, axis="frames"), 1, 2),
    ],
)
def test_outputs_are_put_together_at_the_end_of_each_call(layout, calls, messages) -> None:
    assert outputs_sent(mask(), replace(MEASURED, calls=calls), layout).messages == messages * STEPS
    whole = Site(path="", kind="transformer", layer=0)
    every_second = np.ones((len(SITES) + 1, STEPS), dtype=bool)
    every_second[-1, 1::2] = False
    skipping = ComputeMask(sites=(*SITES, whole), compute=every_second)
    assert outputs_sent(skipping, replace(MEASURED, calls=calls), layout).messages == messages * STEPS / 2


def test_padded_frames_take_their_time() -> None:
    """Nine frames over four GPUs: the busiest computes three, a third of all."""
    fast = Interconnect(name="fast", latency_s=0.0, bytes_per_second=1e30)
    nine = replace(MEASURED, frames=9)
    alone = parallel_seconds(mask(), nine, ONE_GPU, fast)
    assert parallel_seconds(mask(), nine, ParallelLayout.over(4, axis="frames"), fast) == pytest.approx(alone / 3)
    assert parallel_seconds(mask(), nine, ParallelLayout.over(4, axis="tokens"), fast) == pytest.approx(alone / 4)
    assert parallel_seconds(mask(), nine, ParallelLayout.over(64, axis="frames"), fast) == parallel_seconds(
        mask(), nine, ParallelLayout.over(9, axis="frames"), fast
    )
    assert parallel_seconds(mask(), MEASURED, ParallelLayout.over(4, axis="frames"), fast) == pytest.approx(alone / 4)


def test_sites_that_are_not_called_send_nothing() -> None:
    """Of two transformers of which one takes over from the other."""
    seconds = MEASURED.seconds.copy()
    seconds[2, :4] = seconds[3, 4:] = 0
    layout = ParallelLayout.over(4, axis="frames")
    halves = replace(MEASURED, seconds=seconds)
    assert sent_for(mask(), halves, layout).wire_bytes == pytest.approx(
        sent_for(mask(), MEASURED, layout).wire_bytes / 2
    )
    assert sent_for(mask(), halves, layout).messages == 2 * STEPS


def test_branches_that_come_in_turns_send_as_much_in_twice_the_messages() -> None:
    in_turns = replace(MEASURED, calls=2)
    for layout in (ParallelLayout.over(4, axis="frames"), ParallelLayout.over(4, exchange="ulysses", axis="frames")):
        once, twice = sent_for(mask(), MEASURED, layout), sent_for(mask(), in_turns, layout)
        assert twice.messages == 2 * once.messages
        assert twice.wire_bytes == pytest.approx(once.wire_bytes)
    split = ParallelLayout.over(8, branches=2, axis="frames")
    assert sent_for(mask(), in_turns, split) == sent_for(mask(), MEASURED, split)


def test_a_policy_for_many_gpus_may_be_another_than_for_one() -> None:
    """On one GPU the two save the same time; over a slow link only one of them saves messages."""
    layout = ParallelLayout(sequence=4)
    spatial, temporal = mask(spatial=4), mask(temporal=4)
    assert parallel_seconds(spatial, MEASURED, ONE_GPU, LINK) == parallel_seconds(temporal, MEASURED, ONE_GPU, LINK)
    assert parallel_seconds(temporal, MEASURED, layout, LINK) < parallel_seconds(spatial, MEASURED, layout, LINK)
    both = replace(MEASURED, axes=("frames", "tokens"))
    assert parallel_seconds(spatial, both, layout, LINK) == parallel_seconds(temporal, both, layout, LINK)


def test_samples_on_processes_of_their_own_send_at_the_same_time() -> None:
    """Compute was divided by the groups, communication was not."""
    seconds = [
        parallel_seconds(mask(), MEASURED, ParallelLayout(samples=samples, sequence=2, axis="frames"), LINK)
        for samples in (1, 2)
    ]
    assert seconds[1] == pytest.approx(seconds[0] / 2)


def test_full_attention_sends_queries_keys_values_and_output() -> None:
    full = ComputeMask(sites=(Site(path="b.0.attn", kind="full", layer=0),), compute=np.ones((1, 3), dtype=bool))
    measured = Measured(seconds=np.ones((1, 3)), step_seconds=np.ones(3), site_bytes=[1000.0])
    sent = sent_for(full, measured, ParallelLayout.over(2, axis="sequence", exchange="ulysses"))
    assert (sent.messages, sent.wire_bytes) == (3 * 2, pytest.approx(3 * 4 * 500 / 2))
    with pytest.raises(PolicyError, match="a model with full has no temporal attention to split"):
        sent_for(full, measured, ParallelLayout.over(2, axis="frames"))


def profile_of(model: str, pipeline: str = "", **config: Any) -> Profile:
    shapes = Profile.load(PROFILE)
    provenance = {"pipeline": pipeline} if pipeline else {}
    return replace(
        shapes, provenance=provenance, made_for=replace(shapes.made_for, model=model, config={"transformer": config})
    )


def test_only_what_is_cut_through_the_network_is_predicted() -> None:
    assert Measured.of(profile_of("STDiT3Transformer3DModel"), 8).axes == AXES
    assert Measured.of(profile_of("LatteTransformer3DModel"), 8).axes == ("frames",)
    assert Measured.of(profile_of("WanTransformer3DModel"), 8).axes == ("sequence",)
    assert Measured.of(profile_of("MotifVideoTransformer3DModel"), 1).axes == ("sequence",)
    for other in (
        profile_of("MotifVideoTransformer3DModel"),
        profile_of("HunyuanVideoTransformer3DModel", image_condition_type="token_replace"),
        profile_of("SkyReelsV2Transformer3DModel", "SkyReelsV2DiffusionForcingPipeline"),
    ):
        with pytest.raises(PolicyError, match="the time of .* on 2 GPUs cannot be predicted"):
            Measured.of(other, 2)
    assert Measured.of(profile_of("SkyReelsV2Transformer3DModel", "SkyReelsV2Pipeline"), 2).axes == ("sequence",)
    with pytest.raises(PolicyError, match="does not say which pipeline it was made with; profile again"):
        Measured.of(profile_of("SkyReelsV2Transformer3DModel"), 2)


def test_what_is_not_predicted_is_said_with_the_reason_of_the_card() -> None:
    with pytest.raises(PolicyError, match=r"image_condition_type = 'token_replace': tokens of the first frame are"):
        Measured.of(profile_of("HunyuanVideoTransformer3DModel", image_condition_type="token_replace"), 2)
    with pytest.raises(PolicyError, match="its card has no token split"):
        Measured.of(profile_of("MotifVideoTransformer3DModel"), 2)


def test_a_class_of_ones_own_is_predicted_by_its_card() -> None:
    wan = CATALOG.find("WanTransformer3DModel")
    catalog = CATALOG.with_card(replace(wan, transformer="Mine"))
    own = replace(profile_of("Mine"), call=Call(per_step=2, samples=2, shape=(4, 8, 24, 24)))
    with pytest.raises(PolicyError, match="the time of Mine on 2 GPUs cannot be predicted"):
        Measured.of(own, 2)
    assert Measured.of(own, 2, catalog).axes == ("sequence",)
    assert Measured.of(own, 2, catalog).branches == 2
    assert Measured.of(own).branches == 1


@pytest.mark.parametrize(
    ("model", "per_step", "samples", "branches"),
    [
        ("WanTransformer3DModel", 2, 2, 2),
        ("WanTransformer3DModel", 1, 1, 1),
        ("CogVideoXTransformer3DModel", 1, 2, 2),
        ("CogVideoXTransformer3DModel", 1, 1, 1),
        ("CosmosTransformer3DModel", 2, 2, 1),  # its pipeline looks at the first before it asks for the second
        ("LTX2VideoTransformer3DModel", 3, 4, 1),
    ],
)
def test_branches_that_could_be_split(model, per_step, samples, branches) -> None:
    made = replace(profile_of(model), call=Call(per_step=per_step, samples=samples, shape=(4, 8, 24, 24)))
    assert (Measured.of(made).branches, Measured.of(made).calls) == (branches, per_step)


def test_frames_are_those_of_the_latents() -> None:
    call = Call(per_step=1, samples=2, shape=(4, 8, 24, 24))
    assert Measured.of(replace(profile_of("LatteTransformer3DModel"), call=call)).frames == 8
    assert Measured.of(replace(profile_of("WanTransformer3DModel"), call=call)).frames == 0


@pytest.mark.parametrize(("calls", "messages", "share"), [(1, 1.0, 0.5), (2, 0.5, 0.5)])
def test_a_guidance_difference_sends_what_one_branch_sends(calls, messages, share) -> None:
    """In one call it sends as many messages of half the size, in calls of their own half as many."""
    layout, measured = ParallelLayout.over(4, axis="frames"), replace(MEASURED, calls=calls)
    sites = (*SITES, Site(path="", kind="guidance", layer=0))
    compute = np.ones((len(sites), STEPS), dtype=bool)
    full = ComputeMask(sites=sites, compute=compute)
    halved = replace(full, compute=np.vstack([compute[:-1], np.arange(STEPS) == 0]))
    plain, found = sent_for(full, measured, layout), sent_for(halved, measured, layout)
    assert found.messages / plain.messages == pytest.approx((1 + (STEPS - 1) * messages) / STEPS)
    assert found.wire_bytes / plain.wire_bytes == pytest.approx((1 + (STEPS - 1) * share) / STEPS)
    gathers = outputs_sent(full, measured, layout).messages - outputs_sent(halved, measured, layout).messages
    assert gathers == (STEPS - 1 if calls == 2 else 0)
