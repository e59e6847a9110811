"""Temporal attention of a video whose frames are split over processes: DSP, DeepSpeed-Ulysses, Megatron-SP.

Each exchanges inside the site's call, so that a broadcast, which skips the call, sends nothing.

Sources: DSP (https://arxiv.org/abs/2403.10266), DeepSpeed-Ulysses (https://arxiv.org/abs/2309.14509), Megatron-SP
(https://arxiv.org/abs/2205.05198).

Shapes: T frames of the whole video, t = T / P of this process (T padded to a multiple of P), S tokens of a frame, D width,
h heads.
"""

from collections.abc import Callable

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from pabtune.models.stdit3 import SelfAttention, attention, rotate
from pabtune.parallel.collectives import Exchange, padded

PURPOSE = "temporal attention"
Rotary = tuple[Tensor, Tensor]
Forward = Callable[[Tensor, Rotary | None], Tensor]


def by_tokens(forward: Forward, x_BtSD: Tensor, rotary: Rotary | None, frames: int, exchange: Exchange) -> Tensor:
    """DSP: switches to a split over tokens, attends over all frames, switches back. Two all-to-alls."""
    tokens, count = x_BtSD.shape[2], exchange.size
    parts = rearrange(padded(x_BtSD, 2, count), "B t (P s) D -> P B t s D", P=count)
    x_BTsD = rearrange(exchange.swap(parts, PURPOSE), "P B t s D -> B (P t) s D")
    x_BTsD = padded(forward(x_BTsD[:, :frames], rotary), 1, count)
    parts = rearrange(x_BTsD, "B (P t) s D -> P B t s D", P=count)
    return rearrange(exchange.swap(parts, PURPOSE), "P B t s D -> B t (P s) D")[:, :, :tokens]


def by_heads(module: SelfAttention, x_BtSD: Tensor, rotary: Rotary | None, frames: int, exchange: Exchange) -> Tensor:
    """DeepSpeed-Ulysses: queries, keys and values of some heads for all frames. Four all-to-alls."""
    B, count, heads = len(x_BtSD), exchange.size, module.num_heads
    qkv = rearrange(module.qkv(x_BtSD), "B t S (three h d) -> three B t S h d", three=3, h=heads)

    def to_heads(x_BtShd: Tensor) -> Tensor:
        parts = rearrange(padded(x_BtShd, 3, count), "B t S (P h) d -> P B t S h d", P=count)
        return rearrange(exchange.swap(parts, PURPOSE), "P B t S h d -> (B S) (P t) h d")[:, :frames]

    q, k, v = (to_heads(x) for x in qkv)
    q, k = module.q_norm(q), module.k_norm(k)
    if rotary is not None:
        q, k = rotate(q, rotary), rotate(k, rotary)
    x = padded(attention(q, k, v), 1, count)
    parts = rearrange(x, "(B S) (P t) h d -> P B t S h d", B=B, P=count)
    x_BtShd = rearrange(exchange.swap(parts, PURPOSE), "P B t S h d -> B t S (P h) d")[:, :, :, :heads]
    return module.proj(x_BtShd.flatten(-2))


def by_gathering(
    module: SelfAttention, x_BtSD: Tensor, rotary: Rotary | None, frames: int, exchange: Exchange
) -> Tensor:
    """Megatron-SP: the whole hidden state for some heads, whose products are summed. All-gather and reduce-scatter."""
    B, _, _, D = x_BtSD.shape
    heads, width = module.num_heads, D // module.num_heads
    per_process = -(-heads // exchange.size)
    first, last = (min(heads, place * per_process) * width for place in (exchange.rank, exchange.rank + 1))
    x = rearrange(exchange.gather(x_BtSD, 1, PURPOSE)[:, :frames], "B T S D -> (B S) T D")

    def of_heads(index: int) -> Tensor:
        rows = slice(index * D + first, index * D + last)
        return F.linear(x, module.qkv.weight[rows], module.qkv.bias[rows]).unflatten(-1, (-1, width))

    q, k, v = module.q_norm(of_heads(0)), module.k_norm(of_heads(1)), of_heads(2)
    if rotary is not None:
        q, k = rotate(q, rotary), rotate(k, rotary)
    own = F.linear(attention(q, k, v).flatten(-2), module.proj.weight[:, first:last])
    whole = padded(rearrange(own, "(B S) T D -> B T S D", B=B), 1, exchange.size)
    return exchange.sum_parts(whole, 1, PURPOSE) + module.proj.bias
