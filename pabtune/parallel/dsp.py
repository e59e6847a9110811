"""DSP: attention along a split axis by switching to a split along the other axis and back, with two all-to-alls.

Both are inside the site's call, so a broadcast, which skips the call, sends nothing.

Source: Dynamic Sequence Parallelism (https://arxiv.org/abs/2403.10266).

Shapes: A length of the split axis for the entire video, a = A / P in this process (A padded to a multiple of P processes),
O length of the other axis, o = O / P, D width. For temporal attention A are frames and O tokens, for spatial attention the
reverse.
"""

from collections.abc import Callable

from einops import rearrange
from torch import Tensor

from pabtune.parallel.attention_modules import Rotary
from pabtune.parallel.collectives import Communicator, padded

Forward = Callable[[Tensor, Rotary | None], Tensor]


def attend(
    forward: Forward, x_BaOD: Tensor, rotary: Rotary | None, length: int, communicator: Communicator, purpose: str
) -> Tensor:
    """Attention over the entire split axis; returns this process' part of the output, (B, a, O, D).

    Args:
        forward: the attention, on (B, A, o, D).
        x_BaOD: this process' part of the input.
        rotary: rotary embedding along the axis, of length A; None if there is none.
        length: A.
        communicator: processes that share the axis.
        purpose: label under which traffic is counted.
    """
    others, count = x_BaOD.shape[2], communicator.size
    parts = rearrange(padded(x_BaOD, 2, count), "B a (P o) D -> P B a o D", P=count)
    x_BAoD = rearrange(communicator.all_to_all(parts, purpose), "P B a o D -> B (P a) o D")
    x_BAoD = padded(forward(x_BAoD[:, :length], rotary), 1, count)
    parts = rearrange(x_BAoD, "B (P a) o D -> P B a o D", P=count)
    return rearrange(communicator.all_to_all(parts, purpose), "P B a o D -> B a (P o) D")[:, :, :others]
