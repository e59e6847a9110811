"""Full attention over tokens that are split over processes, by heads: DeepSpeed-Ulysses around the kernel itself.

Queries, keys and values of the video are exchanged for all tokens of some heads. Text that attends along with the video
is the same in every process: its heads are taken, not sent; what it becomes is gathered.

The kernel is torch's scaled dot-product attention, which diffusers' processors call in the end, through its dispatcher or
without it: it is intercepted for the length of a site's call.

Source: DeepSpeed-Ulysses (https://arxiv.org/abs/2309.14509).

Shapes: B batch, N tokens of the whole video, n = N / P of this process (N padded to a multiple of P), L tokens of text, H
heads, h = H / P (H padded likewise), d width of a head.
"""

from typing import Any

import torch
from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry
from einops import rearrange
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from pabtune.parallel.collectives import Exchange, padded
from pabtune.records.errors import ParallelError


def check_kernel() -> None:
    """Refuses other kernels than torch's, which is the one that is intercepted.

    Raises:
        ParallelError: another one is chosen.
    """
    backend = _AttentionBackendRegistry.get_active_backend()[0]
    if backend is not AttentionBackendName.NATIVE:
        raise ParallelError(
            f"attention over several processes goes through torch's own kernel, but {backend.value} is chosen; take "
            "--attention sdpa"
        )


class SharedKernel(TorchFunctionMode):
    """While it is active, attention is over all processes' tokens.

    Args:
        exchange: with the other processes.
        own: tokens n of the video in this process.
        whole: tokens N of the video.
        text_first: text comes before the video in the sequence, not after it.
        mask_of_own: masks are made over this process' tokens of the video, and are the same for all of these.
        purpose: that the traffic is counted under.

    Attributes:
        calls: of the kernel, so far.
    """

    def __init__(
        self, exchange: Exchange, own: int, whole: int, *, text_first: bool, mask_of_own: bool = False, purpose: str
    ) -> None:
        super().__init__()
        self.calls = 0
        self._exchange, self._own, self._whole = exchange, own, whole
        self._text_first, self._mask_of_own, self._purpose = text_first, mask_of_own, purpose

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function is not scaled_dot_product_attention:
            return function(*args, **kwargs)
        self.calls += 1
        names = ("query", "key", "value", "attn_mask")
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        q, k, v = (given.pop(name) for name in names[:3])
        if q.shape != k.shape or given.pop("is_causal", False):
            raise ParallelError(
                f"attention of {tuple(q.shape)} to {tuple(k.shape)} cannot be shared by heads: it is not that of a sequence "
                "to all of itself"
            )
        return self._attend(q, k, v, given.pop("attn_mask", None), given)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, options: dict[str, Any]) -> Tensor:
        """(B, H, n + L, d), where the mask, if any, is over all N + L tokens."""
        exchange, heads = self._exchange, q.shape[1]
        text = q.shape[2] - self._own
        if mask is not None and self._mask_of_own:
            mask = self._mask_of_all(mask, text)
        if mask is not None and (mask.shape[-1] != self._whole + text or mask.shape[-2] not in (1, self._whole + text)):
            raise ParallelError(f"a mask of {tuple(mask.shape)} is not over {self._whole + text} tokens")
        if mask is not None and mask.ndim > 3 and mask.shape[1] == heads and heads > 1:
            mask = self._own_heads(mask)
        videos, texts = zip(*(self._apart(x) for x in (q, k, v)), strict=True)
        parts = rearrange(
            padded(torch.stack(videos), 2, exchange.size), "three B (P h) n d -> P three B h n d", P=exchange.size
        )
        swapped = rearrange(exchange.swap(parts, self._purpose), "P three B h n d -> three B h (P n) d")
        whole = [
            self._together(video[:, :, : self._whole], self._own_heads(own))
            for video, own in zip(swapped, texts, strict=True)
        ]
        out = scaled_dot_product_attention(*whole, attn_mask=mask, **options)
        return self._back(out, text, heads)

    def _mask_of_all(self, mask: Tensor, text: int) -> Tensor:
        """(…, 1, N + L) of (…, n + L, n + L): what the first token of the video sees, and all that count see the same."""
        first = text if self._text_first else 0
        row = mask.narrow(-2, min(first, mask.shape[-2] - 1), 1)
        video = row.narrow(-1, first, 1).expand(*row.shape[:-1], self._whole)
        words = row.narrow(-1, 0 if self._text_first else self._own, text)
        return torch.cat([words, video] if self._text_first else [video, words], dim=-1)

    def _back(self, out_BhNd: Tensor, text: int, heads: int) -> Tensor:
        """What this process' heads made of all tokens, for all heads of this process' tokens; of the text, of all heads."""
        exchange = self._exchange
        first = text if self._text_first else 0
        video = padded(out_BhNd[:, :, first : first + self._whole], 2, exchange.size)
        parts = rearrange(video, "B h (P n) d -> P B h n d", P=exchange.size)
        own = rearrange(exchange.swap(parts, self._purpose), "P B h n d -> B (P h) n d")[:, :heads]
        if not text:
            return own
        words = out_BhNd[:, :, :text] if self._text_first else out_BhNd[:, :, self._whole :]
        return self._together(own, exchange.gather(words, 1, self._purpose)[:, :heads])

    def _apart(self, x_BHnd: Tensor) -> tuple[Tensor, Tensor]:
        """Video and text."""
        if self._text_first:
            text, video = x_BHnd.split([x_BHnd.shape[2] - self._own, self._own], dim=2)
        else:
            video, text = x_BHnd.split([self._own, x_BHnd.shape[2] - self._own], dim=2)
        return video, text

    def _together(self, video: Tensor, text: Tensor) -> Tensor:
        return torch.cat([text, video] if self._text_first else [video, text], dim=2)

    def _own_heads(self, x_BHnd: Tensor) -> Tensor:
        return padded(x_BHnd, 1, self._exchange.size).chunk(self._exchange.size, dim=1)[self._exchange.rank]
