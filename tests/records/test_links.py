import json

import pytest

from pabtune.records.errors import ParallelError
from pabtune.records.links import LINKS, Link, find_link


def test_a_link_survives_its_file(tmp_path) -> None:
    link = Link(name="mine", seconds=1e-5, bytes_per_second=2.5e9, provenance={"processes": 2})
    link.save(tmp_path / "mine.json")
    assert find_link(str(tmp_path / "mine.json")) == link
    assert find_link("nvlink") is LINKS["nvlink"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bytes_per_second": 0}, "bytes_per_second: 0 is less than or equal to the minimum"),
        ({"speed": 3}, "'speed' was unexpected"),
        ({"schema": "pabtune.link/2"}, "made by another version"),
    ],
)
def test_a_broken_link_file_is_refused(change, message, tmp_path) -> None:
    document = {**LINKS["pcie"].to_document(), **change}
    (tmp_path / "link.json").write_text(json.dumps(document))
    with pytest.raises(ParallelError, match=message):
        find_link(str(tmp_path / "link.json"))


def test_a_kind_of_link_that_nobody_knows_is_refused() -> None:
    with pytest.raises(ParallelError, match="'string' is neither a link file nor a kind of link; kinds: nvlink, pcie"):
        find_link("string")
