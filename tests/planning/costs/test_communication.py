import pytest

from pabtune.planning.costs.communication import NOTHING, AttentionShape, exchanged, exchanged_by_heads, gathered
from pabtune.records.errors import PolicyError
from pabtune.records.layouts import SEQUENCE_PARALLELS

# Open-Sora 1.2, 51 frames of 480x854, 16 bits, two branches; 28 layers, 30 steps (facts: pab.md, section 5).
PAPER = AttentionShape(length=15, other=1590, bytes_per_token=1152 * 2 * 2, heads=16)


def by_heads(gpus: int, calls: int, tokens: int, text_tokens: int, bytes_per_token: int, heads: int):
    shape = AttentionShape(length=tokens, text_tokens=text_tokens, bytes_per_token=bytes_per_token, heads=heads)
    return exchanged_by_heads(gpus, calls, shape)


@pytest.mark.parametrize(
    ("parallel", "plain", "broadcast"),
    [("megatron-sp", 184.63, 104.62), ("ulysses", 46.16, 26.16), ("dsp", 23.08, 13.08)],
)
def test_the_papers_table(parallel, plain, broadcast) -> None:
    for steps, expected in ((30, plain), (17, broadcast)):
        found = exchanged(parallel, 8, 28 * steps, PAPER).paper_bytes / 1e9
        assert found == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("gpus", [2, 3, 8])
def test_what_leaves_a_gpu_is_counted_with_padding_and_without_its_own_part(gpus) -> None:
    """By hand, for two all-to-alls of a split over frames to one over tokens and back."""
    frames, tokens = (-(-length // gpus) for length in (15, 1590))
    one_way = frames * (gpus - 1) * tokens * 1152 * 4
    assert exchanged("dsp", gpus, 10, PAPER).wire_bytes == pytest.approx(10 * 2 * one_way)
    one_way = frames * (gpus - 1) * 1590 * -(-16 // gpus) * 72 * 4
    assert exchanged("ulysses", gpus, 10, PAPER).wire_bytes == pytest.approx(10 * 4 * one_way)
    gathered = frames * (gpus - 1) * 1590 * 1152 * 4
    assert exchanged("megatron-sp", gpus, 10, PAPER).wire_bytes == pytest.approx(10 * 2 * gathered)


def test_one_gpu_and_no_computed_attention_send_nothing() -> None:
    for parallel in SEQUENCE_PARALLELS:
        assert exchanged(parallel, 1, 10, PAPER).wire_bytes == 0
        assert exchanged(parallel, 8, 0, PAPER).paper_bytes == 0
        assert exchanged(parallel, 8, 10, PAPER).messages == {"dsp": 20, "ulysses": 40, "megatron-sp": 20}[parallel]


def test_other_ways_are_refused() -> None:
    with pytest.raises(PolicyError, match="known: dsp, ulysses, megatron-sp"):
        exchanged("ring", 8, 10, PAPER)  # type: ignore[arg-type]
    with pytest.raises(PolicyError, match="on 0 GPUs"):
        exchanged("dsp", 0, 10, PAPER)


def test_full_attention_sends_four_hidden_states_and_gathers_its_text() -> None:
    plain = by_heads(4, 10, 64, 0, 100, 8)
    assert plain.messages == 20
    assert plain.wire_bytes == pytest.approx(10 * 4 * 16 * 100 * 3 / 4)
    joint = by_heads(4, 10, 64, 5, 100, 8)
    assert joint.messages == 30
    # A quarter of the heads of five words, to three others.
    assert joint.wire_bytes - plain.wire_bytes == pytest.approx(10 * 5 * 25 * 3)
    assert by_heads(1, 10, 64, 5, 100, 8) == NOTHING


def test_lengths_and_heads_that_are_not_divided_are_padded() -> None:
    even = by_heads(4, 1, 64, 0, 90, 8)
    assert by_heads(4, 1, 61, 0, 90, 8).wire_bytes == even.wire_bytes
    assert by_heads(4, 1, 64, 0, 90, 9).wire_bytes == pytest.approx(even.wire_bytes * 12 / 9)


def test_gathering_gives_everyone_the_parts_of_the_others() -> None:
    assert gathered(4, 3, 10, 7).wire_bytes == 3 * 3 * 7 * 3
    assert gathered(4, 3, 10, 7).messages == 3
    assert gathered(1, 3, 10, 7) == NOTHING
    assert (gathered(4, 1, 8, 7) + gathered(2, 1, 8, 7)).messages == 2


@pytest.mark.parametrize("gpus", [2, 3, 8])
def test_a_divisible_shape_sends_what_its_bytes_say(gpus) -> None:
    shape = AttentionShape.evenly_divided(gpus, 9000.0)
    assert exchanged("dsp", gpus, 1, shape).wire_bytes == pytest.approx(2 * 9000 / gpus * (gpus - 1) / gpus)
    assert exchanged_by_heads(gpus, 1, shape).wire_bytes == pytest.approx(4 * 9000 / gpus * (gpus - 1) / gpus)
