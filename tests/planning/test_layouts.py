import numpy as np
import pytest

from pabtune.planning.layouts import (
    AXES,
    Video,
    busiest_share,
    can_share,
    choose_axis,
    exchanging_kind,
    layouts,
)
from pabtune.planning.masks import ComputeMask, resolve
from pabtune.planning.presets import PRESETS
from pabtune.planning.schedules import NoiseSchedule
from pabtune.records.errors import PolicyError
from pabtune.records.layouts import ONE_GPU, ParallelLayout
from pabtune.records.sites import Kind, Site

KINDS: tuple[Kind, ...] = ("spatial", "temporal", "cross")
SITES = tuple(Site(path=f"{kind}.{i}.attn", kind=kind, layer=i) for kind in KINDS for i in range(3))
SCHEDULE = NoiseSchedule(steps=30, sigmas=tuple(1 - step / 30 for step in range(30)))


def computing(**steps: int) -> ComputeMask:
    """So many computed steps of each kind, of ten."""
    compute = np.array([[step < steps.get(site.kind, 10) for step in range(10)] for site in SITES])
    return ComputeMask(sites=SITES, compute=compute)


@pytest.mark.parametrize(("spatial", "temporal", "axis"), [(10, 4, "frames"), (4, 10, "tokens"), (5, 5, "frames")])
@pytest.mark.parametrize("parallel", ["dsp", "ulysses", "megatron-sp"])
def test_the_attention_that_is_broadcast_most_exchanges(spatial, temporal, axis, parallel) -> None:
    assert choose_axis(computing(spatial=spatial, temporal=temporal), parallel, 4) == axis


def test_the_papers_pyramid_splits_frames() -> None:
    assert choose_axis(resolve(PRESETS["pab246"], SITES, SCHEDULE), "dsp", 8) == "frames"


def test_padding_counts() -> None:
    """5 frames over 4 processes are padded to 8; 64 tokens are not."""
    video = Video(frames=5, tokens=64, bytes_per_token=100, heads=4)
    assert video.sent("frames", "dsp", 4, 10).wire_bytes == video.sent("tokens", "dsp", 4, 10).wire_bytes
    assert video.sent("frames", "megatron-sp", 4, 10).wire_bytes > video.sent("tokens", "megatron-sp", 4, 10).wire_bytes
    assert choose_axis(computing(spatial=5, temporal=5), "megatron-sp", 4, video) == "tokens"


def test_all_layouts_of_a_number_of_gpus() -> None:
    assert layouts(1, AXES) == [ONE_GPU]
    assert {str(layout) for layout in layouts(2, ("frames",), ("dsp",))} == {
        "frames split over 2 by dsp", "one guidance branch on each half",
    }  # fmt: skip
    assert len(layouts(8, AXES)) == 2 * 2 * 3
    assert all(layout.branches == 1 for layout in layouts(3, AXES))
    assert {layout.gpus for layout in layouts(8, AXES)} == {8}


def test_full_attention_is_shared_by_heads_alone() -> None:
    assert [str(layout) for layout in layouts(4, ("sequence",), branches=1)] == ["all tokens split over 4 by ulysses"]
    assert [str(layout) for layout in layouts(4, ("sequence",))][1:] == [
        "one guidance branch on each half, all tokens split over 2 by ulysses"
    ]
    assert [layout.branches for layout in layouts(2, ("sequence",), branches=1)] == [1]


def test_a_layout_without_an_axis_names_no_attention_that_exchanges() -> None:
    assert exchanging_kind(ParallelLayout(sequence=2, axis="tokens")) == "spatial"
    with pytest.raises(PolicyError, match="must name the axis that is split: frames, tokens, sequence"):
        exchanging_kind(ParallelLayout(sequence=2))


@pytest.mark.parametrize(
    ("axes", "frames", "gpus", "can"),
    [(("frames",), 16, 8, True), (("frames",), 16, 16, False), (AXES, 16, 16, True), (("frames",), 1, 2, True)],
)
def test_some_models_need_two_frames_on_each_gpu(axes, frames, gpus, can) -> None:
    assert can_share(ParallelLayout(sequence=gpus), axes, frames) == can
    assert can_share(ParallelLayout(sequence=gpus), axes, 0)


def test_the_busiest_has_a_share_of_padded_lengths() -> None:
    assert busiest_share(ParallelLayout(sequence=4), 9) == pytest.approx(1 / 3)
    assert busiest_share(ParallelLayout.over(8, branches=2), 9) == pytest.approx(1 / 6)
    assert busiest_share(ParallelLayout(sequence=8), 0) == pytest.approx(1 / 8)
