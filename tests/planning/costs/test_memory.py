import numpy as np
import pytest

from pabtune.planning.costs.memory import format_bytes, held_bytes, parse_bytes
from pabtune.planning.masks import ComputeMask
from pabtune.records.errors import PolicyError
from pabtune.records.sites import Site

SITES = (Site(path="a", kind="spatial", layer=0), Site(path="b", kind="mlp", layer=0))
MASK = ComputeMask(sites=SITES, compute=np.array([[True, True, False, False, True], [True, False, True, True, True]]))


def test_an_output_is_held_from_its_computation_to_its_last_broadcast() -> None:
    assert held_bytes(MASK, (10, 1)).tolist() == [1, 11, 10, 10, 0]


def test_amounts_are_read_and_written() -> None:
    assert parse_bytes("8GiB") == 8 * 2**30
    assert parse_bytes(" 1.5 mb") == 1_500_000
    assert parse_bytes("77") == 77
    assert format_bytes(77) == "77 B"
    assert format_bytes(1.5 * 2**30) == "1.50 GiB"
    for wrong in ("lots", "8 apples", "-1GiB"):
        with pytest.raises(PolicyError, match="no amount of memory"):
            parse_bytes(wrong)
