import pytest

from pabtune.planning.costs.communication import PARALLELS, exchanged
from pabtune.records.errors import PolicyError

# Open-Sora 1.2, 51 frames of 480x854, 16 bits, two branches; 28 layers, 30 steps (facts: pab.md, section 5).
PAPER = {"frames": 15, "tokens": 1590, "bytes_per_token": 1152 * 2 * 2, "heads": 16}


@pytest.mark.parametrize(
    ("parallel", "plain", "broadcast"),
    [("megatron-sp", 184.63, 104.62), ("ulysses", 46.16, 26.16), ("dsp", 23.08, 13.08)],
)
def test_the_papers_table(parallel, plain, broadcast) -> None:
    for steps, expected in ((30, plain), (17, broadcast)):
        found = exchanged(parallel, 8, 28 * steps, **PAPER).paper_bytes / 1e9
        assert found == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("gpus", [2, 3, 8])
def test_what_leaves_a_gpu_is_counted_with_padding_and_without_its_own_part(gpus) -> None:
    """By hand, for two all-to-alls of a split over frames to one over tokens and back."""
    frames, tokens = (-(-length // gpus) for length in (15, 1590))
    one_way = frames * (gpus - 1) * tokens * 1152 * 4
    assert exchanged("dsp", gpus, 10, **PAPER).wire_bytes == pytest.approx(10 * 2 * one_way)
    one_way = frames * (gpus - 1) * 1590 * -(-16 // gpus) * 72 * 4
    assert exchanged("ulysses", gpus, 10, **PAPER).wire_bytes == pytest.approx(10 * 4 * one_way)
    gathered = frames * (gpus - 1) * 1590 * 1152 * 4
    assert exchanged("megatron-sp", gpus, 10, **PAPER).wire_bytes == pytest.approx(10 * 2 * gathered)


def test_one_gpu_and_no_computed_attention_send_nothing() -> None:
    for parallel in PARALLELS:
        assert exchanged(parallel, 1, 10, **PAPER).wire_bytes == 0
        assert exchanged(parallel, 8, 0, **PAPER).paper_bytes == 0
        assert exchanged(parallel, 8, 10, **PAPER).messages == {"dsp": 20, "ulysses": 40, "megatron-sp": 20}[parallel]


def test_other_ways_are_refused() -> None:
    with pytest.raises(PolicyError, match="known: dsp, ulysses, megatron-sp"):
        exchanged("ring", 8, 10, **PAPER)  # type: ignore[arg-type]
    with pytest.raises(PolicyError, match="on 0 GPUs"):
        exchanged("dsp", 0, 10, **PAPER)
