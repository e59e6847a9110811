from dataclasses import replace

import pytest
import torch

import pabtune
from pabtune.quality.fidelity import psnr_db
from pabtune.records.errors import PolicyError
from pabtune.runtime.quantize import clone, dequantize, quantize
from pabtune.runtime.stores import STORES, kept_bytes
from tests.conftest import draw, pyramid


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_eight_bits_are_as_near_as_they_can_be(dtype) -> None:
    torch.manual_seed(0)
    tensor = (torch.randn(2, 50, 64) * torch.logspace(-3, 3, 50)[:, None]).to(dtype)
    packed = quantize((tensor, None, [tensor[..., :8]]))
    again, nothing, (part,) = dequantize(packed)
    assert again.dtype == dtype
    assert nothing is None
    assert part.shape == (2, 50, 8)
    step = tensor.abs().amax(-1, keepdim=True).float() / 127
    rounding = 0.51 if dtype == torch.float32 else 1.1  # bfloat16 itself has 8 bits
    assert ((again.float() - tensor.float()).abs() <= rounding * step).all()
    assert packed[0].values.nbytes + packed[0].scale.nbytes < tensor.nbytes * (0.6 if dtype == torch.bfloat16 else 0.3)
    assert packed[0].values.nbytes + packed[0].scale.nbytes == kept_bytes([tensor], "int8")
    assert (dequantize(quantize(torch.zeros(2, 3))) == 0).all()


def test_copies_are_whole_and_apart() -> None:
    stored = quantize((torch.randn(2, 3, 4), None))
    copied = clone((stored, torch.ones(2)))
    assert torch.equal(dequantize(copied[0])[0], dequantize(stored)[0])
    assert copied[0][0].values.data_ptr() != stored[0].values.data_ptr()
    assert copied[0][1] is None


@pytest.mark.parametrize("store", STORES)
def test_a_site_that_returns_a_list_gets_a_list_back(store) -> None:
    """In 8 bits and in the host's memory it got a tuple, which a model may not take."""
    output = [torch.ones(2, 3), (torch.zeros(1, 2), None)]
    again = STORES[store]().unpack(STORES[store]().pack(output))
    assert [type(again), type(again[1]), again[1][1]] == [list, tuple, None]
    assert torch.equal(again[0], output[0])
    assert isinstance(clone([torch.ones(1)]), list)


def test_a_run_in_eight_bits_holds_less_and_stays_near(pipeline) -> None:
    runs = {}
    for store in ("exact", "int8"):
        with pabtune.broadcast(pipeline, pyramid(), memory=2**40, store=store) as run:
            frames = draw(pipeline)
        runs[store] = (frames, run.summary()["most_stored_bytes"], run.predicted_bytes.max(), run.broadcast_calls)
    exact, eight = runs["exact"], runs["int8"]
    assert eight[3] == exact[3]
    assert (eight[0] != exact[0]).any()
    assert psnr_db((eight[0][0] * 255).astype("uint8"), (exact[0][0] * 255).astype("uint8")) > 40
    assert eight[1] < 0.45 * exact[1]  # 24 wide: a scale of 4 bytes weighs more than in a real model
    assert eight[2] == eight[1]


def test_unknown_ways_of_storing_are_refused(pipeline) -> None:
    with pytest.raises(PolicyError, match="cannot store outputs as 'fp4'; known: exact, int8, host"):
        pabtune.enable(pipeline, pyramid(), store="fp4")


def test_a_policy_says_how_its_outputs_are_kept(pipeline) -> None:
    stored = {}
    for policy, store in ((pyramid(), "int8"), (replace(pyramid(), store="int8"), None), (pyramid(), None)):
        with pabtune.broadcast(pipeline, policy, store=store) as run:
            draw(pipeline)
        stored[policy.store, store] = run.summary()["most_stored_bytes"]
    assert stored["int8", None] == stored["exact", "int8"] < stored["exact", None]


def test_views_of_one_storage_weigh_as_much_as_it_does() -> None:
    joint = torch.zeros(2, 10, 4)
    video, text = joint[:, :8], joint[:, 8:9]
    assert kept_bytes([video, text], "exact") == joint.nbytes
    assert kept_bytes([video], "exact") == joint.nbytes
    assert kept_bytes([video, text], "host") == video.nbytes + text.nbytes
    assert kept_bytes([video, torch.zeros(3)], "exact") == joint.nbytes + 12
