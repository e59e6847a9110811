import numpy as np
import pytest
import torch

from pabtune.planning.masks import ComputeMask
from pabtune.records.errors import PolicyError
from pabtune.records.sites import Site
from pabtune.runtime.ledger import CacheLedger, Meter

SITES = (
    Site(transformer="first", path="b.0.attn", kind="full", layer=0),
    Site(transformer="first", path="b.0.ff", kind="mlp", layer=0),
    Site(transformer="second", path="b.0.attn", kind="full", layer=0),
)
EVERY_SECOND = np.array([[step % 2 == 0 for step in range(4)]] * len(SITES))
MASK = ComputeMask(sites=SITES, compute=EVERY_SECOND)


def ledger(limit: int | None = None) -> CacheLedger:
    found = CacheLedger(SITES, "exact", limit, "half")
    for branch in ("cond", "uncond"):
        for index, size in enumerate((100, 10)):
            found.note_size(("first", branch), index, size)
    return found


def test_branches_add_up_and_the_longest_output_counts() -> None:
    one = ledger()
    assert one.predict(MASK, {"first": [0, 0]}).tolist() == [220, 220, 220, 220]
    one.note_size(("first", "cond"), 0, 150)
    one.note_size(("first", "cond"), 0, 50)
    assert one.predict(MASK, {"first": [0, 0]}).tolist() == [270, 270, 270, 270]


def test_transformers_that_take_turns_are_not_added_and_those_that_share_a_step_are() -> None:
    both = ledger()
    both.note_size(("second", "cond"), 2, 500)
    assert both.predict(MASK, {"first": [0, 1], "second": [2, 3]}).max() == 500
    assert both.predict(MASK, {"first": [0, 1], "second": [0, 1]}).max() == 720


def test_a_transformer_that_was_not_called_yet_is_like_the_one_before() -> None:
    """By the largest output of each kind: its attention, 200 in both branches; it has no MLP."""
    sites = (*SITES[:2], SITES[2], SITES[2])
    deeper = CacheLedger(sites, "exact", None, "half")
    deeper.note_size(("first", "all"), 0, 200)
    mask = ComputeMask(sites=sites, compute=np.array([[True, False]] * 4))
    assert deeper.predict(mask, {"first": [0]}).max() == 400


def test_a_run_over_the_limit_is_refused_with_the_step() -> None:
    ledger(limit=220).check(MASK, {"first": [0, 0]})
    with pytest.raises(PolicyError, match=r"policy 'half' would hold 220 B in step 0, more than the limit of 219 B"):
        ledger(limit=219).check(MASK, {"first": [0, 0]})


def test_a_meter_stops_a_call_that_keeps_too_much() -> None:
    def meter() -> Meter:
        return Meter(lambda tensors: sum(map(torch.Tensor.nelement, tensors)), held=5, limit=9, policy="half", step=3)

    counting = meter()
    assert counting.read([torch.zeros(4)], is_kept=True) == 4
    assert counting.read([torch.zeros(100)], is_kept=False) == 100
    with pytest.raises(PolicyError, match="would hold 10 B in step 3, more than the limit of 9 B"):
        counting.read([torch.zeros(1)], is_kept=True)
