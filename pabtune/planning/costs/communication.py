"""Bytes and messages of sequence parallelism around attention, which a broadcast saves.

Spatial-temporal models are split over frames, as in the paper: spatial attention needs no exchange, temporal attention does
(or over the tokens of a frame, with the two reversed). A pair of blocks exchanges the hidden state, M bytes in all: DSP
switches to a split over the other axis and back (two all-to-alls), DeepSpeed-Ulysses switches queries, keys, values and the
output (four), Megatron-SP gathers and scatters the whole. Full attention is shared by heads, as in Ulysses, with queries,
keys and values in one message.

Source: Pyramid Attention Broadcast (https://arxiv.org/abs/2408.12588), table of communication.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from pabtune.records.errors import PolicyError

Parallel = Literal["dsp", "ulysses", "megatron-sp"]
PARALLELS: tuple[Parallel, ...] = get_args(Parallel)

MESSAGES: Mapping[Parallel, int] = {"dsp": 2, "ulysses": 4, "megatron-sp": 2}
"""Collectives per temporal attention that computes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Communication:
    """What one GPU exchanges over a run.

    Attributes:
        paper_bytes: in the paper's convention: whole messages, no padding.
        wire_bytes: what leaves the GPU: its own part stays, lengths are padded to a multiple of the number of GPUs.
        messages: collectives.
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


def exchanged(
    parallel: Parallel, gpus: int, calls: int, frames: int, tokens: int, bytes_per_token: float, heads: int
) -> Communication:
    """What temporal attention exchanges over a run.

    Args:
        parallel: the way.
        gpus: P.
        calls: temporal attentions that compute, over all layers and steps.
        frames: T.
        tokens: S, of a frame.
        bytes_per_token: of the hidden state, all guidance branches together.
        heads: of an attention.

    Raises:
        PolicyError: another way, or fewer than 1 GPU.
    """
    if parallel not in PARALLELS or gpus < 1:
        raise PolicyError(f"no parallel run is {parallel!r} on {gpus} GPUs; known: {', '.join(PARALLELS)}")
    if gpus == 1:
        return NOTHING
    count = MESSAGES[parallel]
    # Megatron-SP moves the whole hidden state, the others one part of it.
    parts = 1 if parallel == "megatron-sp" else gpus
    whole = frames * tokens * bytes_per_token
    padded_frames, padded_tokens, padded_heads = (-(-length // gpus) * gpus for length in (frames, tokens, heads))
    # Frames are split always; DSP splits tokens besides, Ulysses heads.
    other = {"dsp": padded_tokens / tokens, "ulysses": padded_heads / heads, "megatron-sp": 1.0}[parallel]
    padded = padded_frames * tokens * bytes_per_token * other
    return Communication(
        paper_bytes=calls * count * whole / parts,
        wire_bytes=calls * count * padded / parts * (gpus - 1) / gpus,
        messages=calls * count,
    )


def shared_by_heads(
    gpus: int, calls: int, tokens: int, text_tokens: int, bytes_per_token: float, heads: int
) -> Communication:
    """What full attention exchanges over a run: queries, keys and values in one all-to-all, the output in another.

    Args:
        gpus: P.
        calls: attentions that compute, over all layers and steps.
        tokens: N, of the video.
        text_tokens: that attend along with the video; every GPU has them, and gathers what they become.
        bytes_per_token: of the hidden state, of all samples of a call.
        heads: of an attention.
    """
    if gpus == 1:
        return NOTHING
    padded = -(-tokens // gpus) * (-(-heads // gpus) * gpus / heads) * bytes_per_token
    own_heads = -(-heads // gpus) / heads * bytes_per_token
    return Communication(
        paper_bytes=calls * 4 * tokens * bytes_per_token / gpus,
        wire_bytes=calls * (4 * padded * (gpus - 1) / gpus + text_tokens * own_heads * (gpus - 1)),
        messages=calls * (3 if text_tokens else 2),
    )


def gathered(gpus: int, calls: int, length: int, bytes_per_place: int) -> Communication:
    """What putting outputs together sends over a run: every GPU gets the parts of all others.

    Args:
        gpus: P.
        calls: of the transformer.
        length: places along the split axis.
        bytes_per_place: of the output.
    """
    if gpus == 1:
        return NOTHING
    whole = length * bytes_per_place
    own = -(-length // gpus) * bytes_per_place
    return Communication(paper_bytes=calls * whole, wire_bytes=calls * own * (gpus - 1), messages=calls)
