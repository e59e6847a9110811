from dataclasses import replace

import numpy as np
import pytest

from pabtune.planning.costs.memory import format_bytes, held_bytes, parse_bytes
from pabtune.planning.masks import ComputeMask
from pabtune.planning.payloads import Payload
from pabtune.records.errors import PolicyError
from pabtune.records.sites import Site

SITES = (Site(path="a", kind="spatial", layer=0), Site(path="b", kind="mlp", layer=0))
MASK = ComputeMask(sites=SITES, compute=np.array([[True, True, False, False, True], [True, False, True, True, True]]))


def test_an_output_is_held_from_its_computation_to_its_last_broadcast() -> None:
    assert held_bytes(MASK, (10, 1)).tolist() == [1, 11, 10, 10, 0]


def test_a_transformer_holds_nothing_once_the_other_took_over() -> None:
    """What it kept for a step that it is not called in is freed before that step; the other one computes in its first."""
    other = Site(transformer="transformer_2", path="b", kind="mlp", layer=0)
    mask = ComputeMask(sites=(SITES[0], other), compute=np.array([[True, False, False, False, False]] * 2))
    called = np.array([[True, True, False, False, False], [False, False, True, True, True]])
    runs = mask.where_called(called)
    assert held_bytes(mask, (10, 1)).tolist() == [11, 11, 11, 11, 11]
    assert held_bytes(runs, (10, 1)).tolist() == [10, 10, 1, 1, 1]
    assert runs.calls(computed=True) == {"spatial": 1, "mlp": 1}
    assert runs.calls(computed=False) == {"spatial": 1, "mlp": 2}
    assert held_bytes(runs, (10, 1), "host").tolist() == [0, 10, 0, 1, 1]


def test_a_store_on_the_host_leaves_the_largest_of_what_is_served_and_of_two_ahead_on_the_device() -> None:
    sites = tuple(Site(path=str(layer), kind="full", layer=layer) for layer in range(5))
    mask = ComputeMask(sites=sites, compute=np.array([[True, False, True]] * 5))
    assert held_bytes(mask, (1, 2, 3, 4, 5), "host").tolist() == [0, 3 + 4 + 5, 0]


def test_branches_called_in_turns_hold_less_than_both_at_once() -> None:
    """One site computes in step 0, broadcasts in 1: in step 0 both keep; the other begins in step 1 to keep for step 2."""
    mask = ComputeMask(sites=SITES, compute=np.array([[True, False, True], [True, True, False]]))
    assert held_bytes(mask, (10, 4)).tolist() == [10, 14, 4]
    # In step 1 the first call holds 5 and 2 beside 5 of the other branch, the second 2 beside its 5 and 2.
    assert held_bytes(mask, (10, 4), calls=2).tolist() == [10, 12, 4]


@pytest.mark.parametrize("store", ["exact", "host"])
def test_what_is_combined_of_several_outputs_before_a_call_is_held_too(store) -> None:
    """A limit of memory was passed in silence: of each site that broadcasts along a line the combined output lies ready."""
    line = Payload("linear")
    mask = ComputeMask(
        sites=SITES,
        compute=np.array([[True, False, False, False], [True, False, True, True]]),
        payloads=(line, Payload()),
    )
    held, plain = held_bytes(mask, (10, 1), store), held_bytes(replace(mask, payloads=()), (10, 1), store)
    assert (held >= plain).all()
    assert (held[1:] - plain[1:]).tolist() == ([10, 10, 10] if store == "exact" else [0, 0, 0])
    eight = held_bytes(mask, (10, 1), "int8") - held_bytes(replace(mask, payloads=()), (10, 1), "int8")
    assert eight[1:].tolist() == [40, 40, 40], "at most four times as much as in 8 bits"
    assert (
        held_bytes(mask, (10, 1), "int8", plain_bytes=(20, 2))[1:] - held_bytes(mask, (10, 1), "int8")[1:] == -20
    ).all()


def test_amounts_are_read_and_written() -> None:
    assert parse_bytes("8GiB") == 8 * 2**30
    assert parse_bytes(" 1.5 mb") == 1_500_000
    assert parse_bytes("77") == 77
    assert format_bytes(77) == "77 B"
    assert format_bytes(1.5 * 2**30) == "1.50 GiB"
    for wrong in ("lots", "8 apples", "-1GiB"):
        with pytest.raises(PolicyError, match="is not an amount of memory"):
            parse_bytes(wrong)
