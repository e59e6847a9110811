"""DeepSpeed-Ulysses: each process attends over all tokens with some of the heads.

Along a split axis of a spatial-temporal model, `attend` uses four all-to-alls, for queries, keys, values and the output. Under
full attention, `UlyssesKernel` wraps the kernel itself: one all-to-all for queries, keys and values of the video, another for
the output. Every process holds the text that attends along with the video, so it selects its heads of the text without
communication and gathers the text's output. All collectives are inside the site's call, so a broadcast, which skips the call,
sends nothing.

Source: DeepSpeed-Ulysses (https://arxiv.org/abs/2309.14509).

Shapes: B batch, N tokens of the entire video, n = N / P in this process (N padded to a multiple of P processes), L tokens of
text, H heads, h = H / P (H padded likewise), d width of a head, D width. Along a split axis: A its length for the entire
video, a = A / P in this process, O length of the other axis.
"""

import torch
from einops import rearrange
from torch import Tensor

from pabtune.parallel.attention_modules import AttentionModule, Rotary
from pabtune.parallel.collectives import Communicator, padded
from pabtune.parallel.kernel import KernelCall, KernelMode
from pabtune.records.errors import ParallelError


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
    B, count = len(x_BaOD), communicator.size

    def to_heads(x_BaOHd: Tensor) -> Tensor:
        parts = rearrange(padded(x_BaOHd, 3, count), "B a O (P h) d -> P B a O h d", P=count)
        return rearrange(communicator.all_to_all(parts, purpose), "P B a O h d -> (B O) (P a) h d")[:, :length]

    q, k, v = (to_heads(x) for x in module.project(x_BaOD))
    q, k = module.normalise(q, k)
    if rotary is not None:
        q, k = module.rotate(q, rotary), module.rotate(k, rotary)
    x = padded(module.attend(q, k, v), 1, count)
    parts = rearrange(x, "(B O) (P a) h d -> P B a O h d", B=B, P=count)
    x_BaOHd = rearrange(communicator.all_to_all(parts, purpose), "P B a O h d -> B a O (P h) d")
    return module.finish(x_BaOHd[:, :, :, : module.heads].flatten(-2))


class UlyssesKernel(KernelMode):
    """Kernel mode in which attention is over the tokens of all processes.

    Args:
        communicator: processes that share the tokens.
        local: number of video tokens in this process, n.
        length: number of video tokens in all processes, N.
        text_first: whether text comes before the video in the sequence, rather than after it.
        has_local_mask: whether masks cover only this process' tokens of the video, all of which are masked alike.
        purpose: label under which traffic is counted.
    """

    def __init__(
        self,
        communicator: Communicator,
        local: int,
        length: int,
        *,
        text_first: bool,
        has_local_mask: bool = False,
        purpose: str,
    ) -> None:
        super().__init__()
        self._communicator, self._local, self._length = communicator, local, length
        self._text_first, self._has_local_mask, self._purpose = text_first, has_local_mask, purpose

    def attend(self, call: KernelCall) -> Tensor:
        """The output (B, H, n + L, d). A mask, if any, covers all N + L tokens unless it is local."""
        q, k, v = call.query, call.key, call.value
        if q.shape != k.shape or call.is_causal:
            raise ParallelError(
                f"attention of {tuple(q.shape)} to {tuple(k.shape)} cannot be split by heads: it must be "
                "self-attention over an entire sequence"
            )
        communicator, heads = self._communicator, q.shape[1]
        text = q.shape[2] - self._local
        videos, texts = zip(*(self._separate(x) for x in (q, k, v)), strict=True)
        parts = rearrange(
            padded(torch.stack(videos), 2, communicator.size),
            "three B (P h) n d -> P three B h n d",
            P=communicator.size,
        )
        received = rearrange(communicator.all_to_all(parts, self._purpose), "P three B h n d -> three B h (P n) d")
        query, key, value = (
            self._join(video[:, :, : self._length], communicator.shard(words, 1))
            for video, words in zip(received, texts, strict=True)
        )
        mask = None if call.mask is None else self._mask(call.mask, text, heads)
        shared = KernelCall(query=query, key=key, value=value, mask=mask, is_causal=False, options=call.options)
        return self._gather_heads(shared.compute(), text, heads)

    def _mask(self, mask: Tensor, text: int, heads: int) -> Tensor:
        """The mask over all N + L tokens, for this process' heads."""
        if self._has_local_mask:
            mask = self._widen(mask, text)
        total = self._length + text
        if mask.shape[-1] != total or mask.shape[-2] not in (1, total):
            raise ParallelError(f"an attention mask must cover {total} tokens, but has shape {tuple(mask.shape)}")
        if mask.ndim > 2 and mask.shape[-3] == heads and heads > 1:
            return self._communicator.shard(mask, mask.ndim - 3)
        return mask

    def _widen(self, mask: Tensor, text: int) -> Tensor:
        """Widens a mask from (…, n + L, n + L) to (…, 1, N + L), by the row of the first video token, which holds for all."""
        first = text if self._text_first else 0
        row = mask.narrow(-2, min(first, mask.shape[-2] - 1), 1)
        video = row.narrow(-1, first, 1).expand(*row.shape[:-1], self._length)
        words = row.narrow(-1, 0 if self._text_first else self._local, text)
        return torch.cat([words, video] if self._text_first else [video, words], dim=-1)

    def _gather_heads(self, out_BhNd: Tensor, text: int, heads: int) -> Tensor:
        """Exchanges this process' heads of all tokens for all heads of this process' tokens and of the text."""
        communicator = self._communicator
        first = text if self._text_first else 0
        video = padded(out_BhNd[:, :, first : first + self._length], 2, communicator.size)
        parts = rearrange(video, "B h (P n) d -> P B h n d", P=communicator.size)
        video = rearrange(communicator.all_to_all(parts, self._purpose), "P B h n d -> B (P h) n d")[:, :heads]
        if not text:
            return video
        words = out_BhNd[:, :, :text] if self._text_first else out_BhNd[:, :, self._length :]
        return self._join(video, communicator.all_gather(words, 1, self._purpose)[:, :heads])

    def _separate(self, x_BHnd: Tensor) -> tuple[Tensor, Tensor]:
        """Splits a sequence into video and text."""
        if self._text_first:
            text, video = x_BHnd.split([x_BHnd.shape[2] - self._local, self._local], dim=2)
        else:
            video, text = x_BHnd.split([self._local, x_BHnd.shape[2] - self._local], dim=2)
        return video, text

    def _join(self, video: Tensor, text: Tensor) -> Tensor:
        return torch.cat([text, video] if self._text_first else [video, text], dim=2)
