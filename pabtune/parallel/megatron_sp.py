"""Megatron-SP: each process gathers the entire hidden state, attends with some heads, and the projected outputs are summed.

One all-gather and one reduce-scatter, inside the site's call, so a broadcast, which skips the call, sends nothing.

Source: Megatron-SP (https://arxiv.org/abs/2205.05198).

Shapes: A length of the split axis for the entire video, a = A / P in this process (A padded to a multiple of P processes),
O length of the other axis, D width.
"""

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from pabtune.parallel.attention_modules import AttentionModule, Rotary
from pabtune.parallel.collectives import Communicator, padded


def attend(  # noqa: PLR0913, PLR0917, the same arguments for each method
    module: AttentionModule,
    x_BaOD: Tensor,
    rotary: Rotary | None,
    length: int,
    communicator: Communicator,
    purpose: str,
) -> Tensor:
    """Attention over the entire split axis; returns this process' part of the output, (B, a, O, D).

    Args:
        module: the attention.
        x_BaOD: this process' part of the input.
        rotary: rotary embedding along the axis, of length A; None if there is none.
        length: A.
        communicator: processes that share the axis.
        purpose: label under which traffic is counted.
    """
    B, _, _, D = x_BaOD.shape
    width = D // module.heads
    per_process = -(-module.heads // communicator.size)
    first, last = (min(module.heads, rank * per_process) * width for rank in (communicator.rank, communicator.rank + 1))
    x = rearrange(communicator.all_gather(x_BaOD, 1, purpose)[:, :length], "B A O D -> (B O) A D")
    q, k, v = (
        F.linear(x, weight[first:last], bias if bias is None else bias[first:last]).unflatten(-1, (-1, width))
        for weight, bias in module.projection_weights()
    )
    q, k = module.normalise(q, k)
    if rotary is not None:
        q, k = module.rotate(q, rotary), module.rotate(k, rotary)
    weight, bias = module.output_weights()
    partial = F.linear(module.attend(q, k, v).flatten(-2), weight[:, first:last])
    partial = padded(rearrange(partial, "(B O) A D -> B A O D", B=B), 1, communicator.size)
    output = communicator.reduce_scatter(partial, 1, purpose)
    return output if bias is None else output + bias
