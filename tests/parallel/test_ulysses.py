"""The shared kernel with one process, which must be the kernel itself; with several, see test_token_parallel.py."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from pabtune.parallel.ulysses import UlyssesKernel
from pabtune.records.errors import ParallelError


class Alone:
    """An exchange with nobody."""

    size, rank = 1, 0

    def all_to_all(self, parts, purpose):
        return parts

    def all_gather(self, part, dim, purpose):
        return part

    def shard(self, x, dim):
        return x


def kernel(own: int, whole: int, text_first: bool = False) -> UlyssesKernel:
    return UlyssesKernel(Alone(), own, whole, text_first=text_first, purpose="full")


@pytest.mark.parametrize("text_first", [False, True])
@pytest.mark.parametrize("text", [0, 3])
@pytest.mark.parametrize("mask", [None, "keys", "heads"])
def test_alone_it_is_the_kernel_itself(text_first, text, mask) -> None:
    q, k, v = torch.randn(3, 2, 4, 6 + text, 8)
    masks = {"keys": torch.rand(2, 1, 1, 6 + text) > 0.3, "heads": torch.rand(2, 4, 6 + text, 6 + text) > 0.3}
    given = masks.get(mask)
    expected = scaled_dot_product_attention(q, k, v, attn_mask=given)
    with kernel(6, 6, text_first) as active:
        found = scaled_dot_product_attention(q, k, v, attn_mask=given)
        assert (q + k).shape == q.shape
    assert active.calls == 1
    torch.testing.assert_close(found, expected, equal_nan=True)


def test_padding_is_left_out() -> None:
    """Five tokens, padded to six."""
    q, k, v = torch.randn(3, 1, 2, 5, 8)
    padded = [torch.cat([x, torch.full((1, 2, 1, 8), 9.0)], dim=2) for x in (q, k, v)]
    with kernel(6, 5):
        found = scaled_dot_product_attention(*padded)
    torch.testing.assert_close(found[:, :, :5], scaled_dot_product_attention(q, k, v))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"is_causal": True}, "it must be self-attention over an entire sequence"),
        (
            {"attn_mask": torch.ones(1, 1, 1, 4, dtype=torch.bool)},
            r"an attention mask must cover 6 tokens, but has shape \(1, 1, 1, 4\)",
        ),
    ],
)
def test_other_attention_is_refused(arguments, message) -> None:
    q, k, v = torch.randn(3, 1, 2, 6, 8)
    with kernel(6, 6), pytest.raises(ParallelError, match=message):
        scaled_dot_product_attention(q, k, v, **arguments)


def test_attention_to_something_else_is_refused() -> None:
    q, k = torch.randn(1, 2, 6, 8), torch.randn(1, 2, 9, 8)
    with kernel(6, 6), pytest.raises(ParallelError, match="cannot be split by heads"):
        scaled_dot_product_attention(q, k, k)
