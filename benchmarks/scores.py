"""Broadcasting of attention scores instead of outputs for STDiT3, as in the ablation of the paper.

The scores (after softmax) of a computed step are reused in later steps; values are projected and weighted in every step.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from pabtune.models.stdit3 import CrossAttention, SelfAttention, rotate
from pabtune.planning.masks import ComputeMask

Computes = Callable[[], bool]


def softmax_scores(q_BNhd: Tensor, k_BMhd: Tensor, mask_B11M: Tensor | None = None) -> Tensor:
    """Attention scores after softmax, (B, h, N, M)."""
    scores = (q_BNhd.transpose(1, 2) * q_BNhd.shape[-1] ** -0.5) @ k_BMhd.permute(0, 2, 3, 1)
    if mask_B11M is not None:
        scores = scores.masked_fill(~mask_B11M, float("-inf"))
    return scores.softmax(dim=-1)


def _self_forward(module: SelfAttention, computes: Computes) -> Callable[..., Tensor]:
    kept: list[Tensor] = []

    def forward(x_BTSD: Tensor, rotary: tuple[Tensor, Tensor] | None) -> Tensor:
        B, T, S, D = x_BTSD.shape
        x = rearrange(x_BTSD, "B T S D -> (B S) T D" if module.temporal else "B T S D -> (B T) S D")
        if computes():
            qkv = rearrange(module.qkv(x), "b n (three h d) -> three b n h d", three=3, h=module.num_heads)
            q, k, v = module.q_norm(qkv[0]), module.k_norm(qkv[1]), qkv[2]
            if rotary is not None:
                q, k = rotate(q, rotary), rotate(k, rotary)
            kept[:] = [softmax_scores(q, k)]
        else:
            v = F.linear(x, module.qkv.weight[2 * D :], module.qkv.bias[2 * D :])
            v = rearrange(v, "b n (h d) -> b n h d", h=module.num_heads)
        x = module.proj((kept[0] @ v.transpose(1, 2)).transpose(1, 2).flatten(-2))
        return rearrange(x, "(B S) T D -> B T S D" if module.temporal else "(B T) S D -> B T S D", B=B)

    return forward


def _cross_forward(module: CrossAttention, computes: Computes) -> Callable[..., Tensor]:
    kept: list[Tensor] = []

    def forward(x_BTSD: Tensor, text_BLD: Tensor, mask_B11L: Tensor | None) -> Tensor:
        k, v = rearrange(module.kv_linear(text_BLD), "B L (two h d) -> two B L h d", two=2, h=module.num_heads)
        if computes():
            q = rearrange(module.q_linear(x_BTSD), "B T S (h d) -> B (T S) h d", h=module.num_heads)
            kept[:] = [softmax_scores(q, k, mask_B11L)]
        return module.proj((kept[0] @ v.transpose(1, 2)).transpose(1, 2).flatten(-2)).view_as(x_BTSD)

    return forward


@contextmanager
def broadcast_scores(transformer: object, mask: ComputeMask) -> Iterator[None]:
    """Broadcasts the scores of attention sites by a mask inside a `with` block; MLPs always compute.

    The transformer must be called once per step.
    """
    patched = []
    for site, row in zip(mask.sites, mask.compute.tolist(), strict=True):
        if site.kind == "mlp":
            continue
        module = transformer.get_submodule(site.path)
        calls = iter([])

        def computes(row: list[bool] = row, state: list[Iterator[bool]] = [calls]) -> bool:  # noqa: B006
            flag = next(state[0], None)
            if flag is None:
                state[0] = iter(row)
                flag = next(state[0])
            return flag

        make = _cross_forward if isinstance(module, CrossAttention) else _self_forward
        module.forward = make(module, computes)
        patched.append(module)
    try:
        yield
    finally:
        for module in patched:
            del module.forward
