import json

import pytest

from pabtune.records.errors import ParallelError
from pabtune.records.files import check_document
from pabtune.records.layouts import ONE_GPU, SCHEMA, ParallelLayout

LAYOUTS = [
    ONE_GPU,
    ParallelLayout(branches=2),
    ParallelLayout(sequence=4, axis="tokens", exchange="megatron-sp", decode="tiles"),
    ParallelLayout(samples=2, branches=2, sequence=3, axis="sequence", exchange="ulysses", decode="alone"),
]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_a_layout_survives_its_file(layout, tmp_path) -> None:
    layout.save(tmp_path / "layout.json")
    assert ParallelLayout.load(tmp_path / "layout.json") == layout
    check_document(layout.to_document(), "layout", SCHEMA, ParallelError)


def test_a_file_that_leaves_values_out_has_the_defaults(tmp_path) -> None:
    (tmp_path / "layout.json").write_text(json.dumps({"schema": SCHEMA, "sequence": 4}))
    assert ParallelLayout.load(tmp_path / "layout.json") == ParallelLayout(sequence=4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": 3}, "'colour' was unexpected"),
        ({"branches": 3}, r"branches: 3 is not one of \[1, 2\]"),
        ({"axis": "width"}, "axis: 'width' is not one of"),
        ({"sequence": 0}, "sequence: 0 is less than the minimum of 1"),
        ({"schema": "pabtune.layout/2"}, "made by another version"),
        ({"axis": "frames"}, "needs 2 or more GPUs that share the sequence"),
    ],
)
def test_a_broken_layout_file_is_refused(change, message, tmp_path) -> None:
    (tmp_path / "layout.json").write_text(json.dumps({**ONE_GPU.to_document(), **change}))
    with pytest.raises(ParallelError, match=message):
        ParallelLayout.load(tmp_path / "layout.json")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"samples": 0}, "`samples` must be 1 or more, but is 0"),
        ({"branches": 3}, "`branches` must be 1 or 2, but is 3"),
        ({"sequence": 2, "axis": "width"}, "unknown axis 'width'; known: frames, tokens, sequence"),
        ({"exchange": "ring"}, "unknown exchange 'ring'; known: dsp, ulysses, megatron-sp"),
        ({"decode": "squares"}, "unknown decode 'squares'; known: frames, tiles, alone"),
        ({"branches": 2, "axis": "frames"}, "axis 'frames' needs 2 or more GPUs that share the sequence"),
        ({"sequence": 2, "axis": "sequence"}, "full attention is shared by `ulysses` alone, not by 'dsp'"),
    ],
)
def test_contradictions_are_refused(values, message) -> None:
    with pytest.raises(ParallelError, match=message):
        ParallelLayout(**values)


def test_gpus_that_share_nothing_else_share_the_sequence() -> None:
    assert ParallelLayout.over(16, branches=2, samples=4) == ParallelLayout(samples=4, branches=2, sequence=2)
    assert ParallelLayout.over(16, branches=2, samples=4).gpus == 16
    assert ParallelLayout.over(3).sequence == 3
    with pytest.raises(ParallelError, match="3 parts of the samples do not fit 4 GPUs for each branch"):
        ParallelLayout.over(8, branches=2, samples=3)
    with pytest.raises(ParallelError, match="2 guidance branches need a multiple of 2 GPUs, not 3"):
        ParallelLayout.over(3, branches=2)


def test_an_axis_is_set_only_where_the_sequence_is_split() -> None:
    assert ParallelLayout(branches=2).along("frames") == ParallelLayout(branches=2)
    assert ParallelLayout(sequence=2).along("sequence").exchange == "ulysses"
    assert ParallelLayout(sequence=2, exchange="megatron-sp").along("tokens").exchange == "megatron-sp"


def test_layouts_read_as_plain_english() -> None:
    assert [str(layout) for layout in LAYOUTS] == [
        "one GPU",
        "one guidance branch on each half",
        "tokens of each frame split over 4 by megatron-sp",
        "samples split over 2, one guidance branch on each half, all tokens split over 3 by ulysses",
    ]
