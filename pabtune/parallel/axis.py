"""Attention along an axis of a video that is split over processes: DSP, DeepSpeed-Ulysses, Megatron-SP.

Each exchanges inside the site's call, so that a broadcast, which skips the call, sends nothing.

Sources: DSP (https://arxiv.org/abs/2403.10266), DeepSpeed-Ulysses (https://arxiv.org/abs/2309.14509), Megatron-SP
(https://arxiv.org/abs/2205.05198).

Shapes: A places along the split axis of the whole video, a = A / P of this process (A padded to a multiple of P), O places
along the other axis, D width, h heads. For temporal attention A are frames and O tokens, for spatial attention the reverse.
"""

from collections.abc import Callable

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from pabtune.parallel.attention import Parts, Rotary
from pabtune.parallel.collectives import Exchange, padded

Forward = Callable[[Tensor, Rotary | None], Tensor]


def by_switching(
    forward: Forward, x_BaOD: Tensor, rotary: Rotary | None, whole: int, exchange: Exchange, purpose: str
) -> Tensor:
    """DSP: switches to a split over the other axis, attends over all of this one, switches back. Two all-to-alls.

    Args:
        forward: the attention, on (B, A, o, D).
        x_BaOD: this process' part.
        rotary: of the A places.
        whole: A.
        exchange: with the others.
        purpose: that the traffic is counted under.
    """
    others, count = x_BaOD.shape[2], exchange.size
    parts = rearrange(padded(x_BaOD, 2, count), "B a (P o) D -> P B a o D", P=count)
    x_BAoD = rearrange(exchange.swap(parts, purpose), "P B a o D -> B (P a) o D")
    x_BAoD = padded(forward(x_BAoD[:, :whole], rotary), 1, count)
    parts = rearrange(x_BAoD, "B (P a) o D -> P B a o D", P=count)
    return rearrange(exchange.swap(parts, purpose), "P B a o D -> B a (P o) D")[:, :, :others]


def by_heads(
    module: Parts, x_BaOD: Tensor, rotary: Rotary | None, whole: int, exchange: Exchange, purpose: str
) -> Tensor:
    """DeepSpeed-Ulysses: queries, keys and values of some heads for all places. Four all-to-alls.

    Args:
        module: the attention.
        x_BaOD: this process' part.
        rotary: of the A places.
        whole: A.
        exchange: with the others.
        purpose: that the traffic is counted under.
    """
    B, count = len(x_BaOD), exchange.size

    def to_heads(x_BaOhd: Tensor) -> Tensor:
        parts = rearrange(padded(x_BaOhd, 3, count), "B a O (P h) d -> P B a O h d", P=count)
        return rearrange(exchange.swap(parts, purpose), "P B a O h d -> (B O) (P a) h d")[:, :whole]

    q, k, v = (to_heads(x) for x in module.project(x_BaOD))
    q, k = module.normalise(q, k)
    if rotary is not None:
        q, k = module.rotate(q, rotary), module.rotate(k, rotary)
    x = padded(module.attend(q, k, v), 1, count)
    parts = rearrange(x, "(B O) (P a) h d -> P B a O h d", B=B, P=count)
    x_BaOhd = rearrange(exchange.swap(parts, purpose), "P B a O h d -> B a O (P h) d")[:, :, :, : module.heads]
    return module.finish(x_BaOhd.flatten(-2))


def by_gathering(
    module: Parts, x_BaOD: Tensor, rotary: Rotary | None, whole: int, exchange: Exchange, purpose: str
) -> Tensor:
    """Megatron-SP: the whole hidden state for some heads, whose products are summed. All-gather and reduce-scatter.

    Args:
        module: the attention.
        x_BaOD: this process' part.
        rotary: of the A places.
        whole: A.
        exchange: with the others.
        purpose: that the traffic is counted under.
    """
    B, _, _, D = x_BaOD.shape
    width = D // module.heads
    per_process = -(-module.heads // exchange.size)
    first, last = (min(module.heads, place * per_process) * width for place in (exchange.rank, exchange.rank + 1))
    x = rearrange(exchange.gather(x_BaOD, 1, purpose)[:, :whole], "B A O D -> (B O) A D")
    q, k, v = (
        F.linear(x, weight[first:last], bias if bias is None else bias[first:last]).unflatten(-1, (-1, width))
        for weight, bias in module.weights()
    )
    q, k = module.normalise(q, k)
    if rotary is not None:
        q, k = module.rotate(q, rotary), module.rotate(k, rotary)
    weight, bias = module.out()
    own = F.linear(module.attend(q, k, v).flatten(-2), weight[:, first:last])
    summed = exchange.sum_parts(padded(rearrange(own, "(B O) A D -> B A O D", B=B), 1, exchange.size), 1, purpose)
    return summed if bias is None else summed + bias
