"""Bytes and messages of sequence parallelism in attention, which a broadcast saves.

Spatial-temporal models are split over frames, as in the paper: spatial attention needs no communication, temporal attention
does (or over the tokens of a frame, with the two reversed). DSP switches the hidden state to a split over the other axis and
back (two all-to-alls), DeepSpeed-Ulysses exchanges queries, keys, values and the output (four all-to-alls), Megatron-SP
all-gathers and reduce-scatters the entire hidden state. Full attention is split by heads, as in Ulysses, with queries, keys
and values in one message.

Source: Pyramid Attention Broadcast (https://arxiv.org/abs/2408.12588), table of communication.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from pabtune.records.errors import PolicyError
from pabtune.records.layouts import SEQUENCE_PARALLELS, SequenceParallel

MESSAGES: Mapping[SequenceParallel, int] = {"dsp": 2, "ulysses": 4, "megatron-sp": 2}
"""Collectives per computed attention."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionShape:
    """Sizes of an attention over a video that several GPUs share.

    Attributes:
        length: length of the split axis for the entire video.
        other: length of the other axis; 1 under full attention.
        bytes_per_token: bytes of one token's hidden state, for all samples of a call.
        heads: number of heads.
        text_tokens: text tokens that attend along with the video; every GPU holds them.
    """

    length: int
    other: int = 1
    bytes_per_token: float
    heads: int
    text_tokens: int = 0

    @classmethod
    def evenly_divided(cls, gpus: int, hidden_bytes: float) -> Self:
        """Shape of a hidden state of which only the bytes are known, taken to be divisible by the GPUs everywhere."""
        return cls(length=gpus, other=gpus, bytes_per_token=hidden_bytes / gpus**2, heads=gpus)


@dataclass(frozen=True, slots=True, kw_only=True)
class Communication:
    """Communication of one GPU.

    Attributes:
        paper_bytes: bytes in the paper's convention: entire messages without padding.
        wire_bytes: bytes that leave the GPU: without its own part, padded to a multiple of the number of GPUs.
        messages: number of collectives.
    """

    paper_bytes: float
    wire_bytes: float
    messages: int

    def __add__(self, other: "Communication") -> "Communication":
        return Communication(
            paper_bytes=self.paper_bytes + other.paper_bytes,
            wire_bytes=self.wire_bytes + other.wire_bytes,
            messages=self.messages + other.messages,
        )


NOTHING = Communication(paper_bytes=0.0, wire_bytes=0.0, messages=0)


def exchanged(method: SequenceParallel, gpus: int, calls: int, shape: AttentionShape) -> Communication:
    """Communication of attention along a split axis of a spatial-temporal model, over a run.

    Args:
        method: method of sequence parallelism.
        gpus: number of GPUs, P.
        calls: computed attention calls, over all layers and steps.
        shape: sizes of one of them.

    Raises:
        PolicyError: an unknown method, or fewer than 1 GPU.
    """
    if method not in SEQUENCE_PARALLELS or gpus < 1:
        raise PolicyError(
            f"unknown method {method!r} on {gpus} GPUs; known: {', '.join(SEQUENCE_PARALLELS)}, on 1 or more"
        )
    if gpus == 1:
        return NOTHING
    count = MESSAGES[method]
    # Megatron-SP moves the entire hidden state, the others one part of it.
    parts = 1 if method == "megatron-sp" else gpus
    hidden = shape.length * shape.other * shape.bytes_per_token
    length, other, heads = (-(-size // gpus) * gpus for size in (shape.length, shape.other, shape.heads))
    # The split axis is always padded; DSP pads the other axis besides, Ulysses the heads.
    padding = {"dsp": other / shape.other, "ulysses": heads / shape.heads, "megatron-sp": 1.0}[method]
    padded = length * shape.other * shape.bytes_per_token * padding
    return Communication(
        paper_bytes=calls * count * hidden / parts,
        wire_bytes=calls * count * padded / parts * (gpus - 1) / gpus,
        messages=calls * count,
    )


def exchanged_by_heads(gpus: int, calls: int, shape: AttentionShape) -> Communication:
    """Communication of full attention over a run: queries, keys and values in one all-to-all, the output in another.

    Args:
        gpus: number of GPUs, P.
        calls: computed attention calls, over all layers and steps.
        shape: sizes of one of them; the output of the text is gathered.
    """
    if gpus == 1:
        return NOTHING
    tokens, bytes_per_token = shape.length * shape.other, shape.bytes_per_token
    heads_per_gpu = -(-shape.heads // gpus)
    padded = -(-tokens // gpus) * (heads_per_gpu * gpus / shape.heads) * bytes_per_token
    text_bytes = shape.text_tokens * heads_per_gpu / shape.heads * bytes_per_token
    return Communication(
        paper_bytes=calls * 4 * tokens * bytes_per_token / gpus,
        wire_bytes=calls * (4 * padded * (gpus - 1) / gpus + text_bytes * (gpus - 1)),
        messages=calls * (3 if shape.text_tokens else 2),
    )


def gathered(gpus: int, calls: int, length: int, bytes_per_place: int) -> Communication:
    """Communication of gathering outputs over a run: every GPU receives the parts of all others.

    Args:
        gpus: number of GPUs, P.
        calls: calls of the transformer.
        length: length of the split axis.
        bytes_per_place: bytes of the output per unit of that length.
    """
    if gpus == 1:
        return NOTHING
    part = -(-length // gpus) * bytes_per_place
    return Communication(
        paper_bytes=calls * length * bytes_per_place, wire_bytes=calls * part * (gpus - 1), messages=calls
    )
