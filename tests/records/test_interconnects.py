import json
from dataclasses import replace

import pytest

from pabtune.records.errors import ParallelError
from pabtune.records.files import check_document
from pabtune.records.interconnects import INTERCONNECTS, SCHEMA, Interconnect, find_interconnect


def test_a_link_survives_its_file(tmp_path) -> None:
    link = Interconnect(name="mine", latency_s=1e-5, bytes_per_second=2.5e9, provenance={"processes": 2})
    link.save(tmp_path / "mine.json")
    assert find_interconnect(str(tmp_path / "mine.json")) == link
    assert find_interconnect("nvlink") is INTERCONNECTS["nvlink"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bytes_per_second": 0}, "bytes_per_second: 0 is less than or equal to the minimum"),
        ({"speed": 3}, "'speed' was unexpected"),
        ({"schema": "pabtune.link/2"}, "made by another version"),
    ],
)
def test_a_broken_link_file_is_refused(change, message, tmp_path) -> None:
    document = {**INTERCONNECTS["pcie"].to_document(), **change}
    (tmp_path / "link.json").write_text(json.dumps(document))
    with pytest.raises(ParallelError, match=message):
        find_interconnect(str(tmp_path / "link.json"))


def test_a_kind_of_link_that_nobody_knows_is_refused() -> None:
    with pytest.raises(ParallelError, match="'string' is neither a link file nor a kind of link; kinds: nvlink, pcie"):
        find_interconnect("string")


@pytest.mark.parametrize("change", [{"latency_s": -1e-6}, {"bytes_per_second": 0.0}])
def test_an_impossible_interconnect_is_refused(change) -> None:
    """Fault 23: infinite ones were accepted."""
    with pytest.raises(ParallelError, match="the latency must be 0 to 3600 s, and the bandwidth 1 to 1e\\+30 bytes"):
        replace(INTERCONNECTS["pcie"], **change)


@pytest.mark.parametrize("name", INTERCONNECTS)
def test_published_interconnects_keep_to_the_schema(name) -> None:
    check_document(INTERCONNECTS[name].to_document(), name, SCHEMA, ParallelError)


def test_time_is_latency_and_bytes_over_bandwidth() -> None:
    assert Interconnect(name="x", latency_s=0.5, bytes_per_second=4.0).seconds(3, 8.0) == 3 * 0.5 + 2.0
