"""Splitting spatial-temporal transformers: over frames, where temporal attention exchanges, or over the tokens of a frame,
where spatial attention does. Everything else works on frames, or on tokens, alone.

Shapes: B batch, T frames and S tokens of the entire video; t, s those of this process (padded to a multiple of P processes);
D width.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

from diffusers import LatteTransformer3DModel
from diffusers.hooks import ModelHook
from diffusers.models.attention_processor import Attention
from einops import rearrange
from torch import Tensor, nn

from pabtune.models.open_sora_plan.transformer import LatteT2VTransformer3DModel
from pabtune.models.stdit3 import STDiT3Transformer3DModel
from pabtune.parallel import dsp, megatron_sp, ulysses
from pabtune.parallel.attention_modules import Rotary, decompose
from pabtune.parallel.call_state import CallScope, CallState
from pabtune.parallel.collectives import OUTPUT, Communicator
from pabtune.parallel.sharded_model import ShardedModel, bind_arguments
from pabtune.planning.layouts import EXCHANGING
from pabtune.records.errors import ParallelError
from pabtune.records.layouts import Axis
from pabtune.runtime.interception import PARALLEL_HOOK

if TYPE_CHECKING:
    from collections.abc import Iterator

PositionsOfFrames = Callable[[Communicator, int], AbstractContextManager[None]]
"""Lets a network add this process' part of the positions of a number of frames, for the length of a call."""


def split_axis(sharded: ShardedModel, transformer: nn.Module, axis: Axis, axes: Sequence[Axis]) -> None:
    """Splits a transformer along an axis.

    Args:
        sharded: takes note of what is attached.
        transformer: of a class whose card has a `FrameSplit`.
        axis: the axis that is split.
        axes: the axes of its card.

    Raises:
        ParallelError: that axis of that class cannot be split.
    """
    name = type(transformer).__name__
    if axis not in axes:
        raise ParallelError(f"{name} can be split over {', '.join(axes)}, not over {axis}")
    if isinstance(transformer, STDiT3Transformer3DModel):
        _split_stdit3(sharded, transformer, axis)
    elif isinstance(transformer, LatteT2VTransformer3DModel):
        positions = partial(_offset_of_frames, transformer)
        _split_latte(sharded, transformer, partial(_temporal_rotary, transformer), positions)
    elif isinstance(transformer, LatteTransformer3DModel):
        _split_latte(sharded, transformer, None, partial(_part_of_buffer, transformer))
    else:
        raise ParallelError(
            f"{name} cannot be split along {axis}: how frames are split is code, for STDiT3 and Latte alone; leave `split` "
            "out of its card, and the work inside its sites is shared"
        )


def _split_stdit3(sharded: ShardedModel, transformer: STDiT3Transformer3DModel, axis: Axis) -> None:
    if transformer.config["patch_size"][0] != 1:
        raise ParallelError("frames cannot be split where patches hold several of them")
    scope: CallScope = CallScope()
    if axis == "frames":
        cuts = {"hidden_states": 2, "x_mask": 1}
        hook = _FramesHook(sharded.sequence, scope, cuts, transformer.rope, lambda *_: nullcontext())
        sharded.hook(transformer, hook, f"{PARALLEL_HOOK}_call")
        blocks: Any = transformer.temporal_blocks
    else:
        sharded.hook(transformer, _TokensHook(scope), f"{PARALLEL_HOOK}_call")
        blocks = transformer.spatial_blocks
        sharded.before(blocks[0], partial(_take_tokens, sharded.sequence, scope))
        sharded.hook(transformer.final_layer, _TokensEndHook(sharded.sequence, scope))
    for block in blocks:
        sharded.hook(block.attn, _AttentionHook(sharded, scope, axis))


def _split_latte(
    sharded: ShardedModel,
    transformer: Any,
    rotary: Callable[[int], Rotary] | None,
    positions: PositionsOfFrames,
) -> None:
    scope = CallScope()
    hook = _FramesHook(sharded.sequence, scope, {"hidden_states": 2}, rotary, positions, least_frames=2)
    sharded.hook(transformer, hook, f"{PARALLEL_HOOK}_call")
    for block in transformer.temporal_transformer_blocks:
        sharded.hook(block.attn1, _AttentionHook(sharded, scope, "frames"))


def _temporal_rotary(transformer: LatteT2VTransformer3DModel, frames: int) -> Rotary:
    return transformer.temporal_rotary(frames, transformer.device)


@contextmanager
def _offset_of_frames(
    transformer: LatteT2VTransformer3DModel, communicator: Communicator, frames: int
) -> "Iterator[None]":
    before, transformer.first_frame = transformer.first_frame, communicator.rank * -(-frames // communicator.size)
    try:
        yield
    finally:
        transformer.first_frame = before


@contextmanager
def _part_of_buffer(transformer: Any, communicator: Communicator, frames: int) -> "Iterator[None]":
    """diffusers' Latte keeps the positions of all its frames, (1, T, D), in a buffer."""
    buffer = transformer.temp_pos_embed
    transformer.temp_pos_embed = communicator.shard(buffer, 1)
    try:
        yield
    finally:
        transformer.temp_pos_embed = buffer


class _FramesHook(ModelHook):
    """Sits on a transformer: this process' frames of the inputs in, the output of all frames out.

    Args:
        communicator: of the processes that share the frames.
        scope: of the transformer's calls.
        cuts: arguments with frames, and their dimension of them.
        rotary: rotary embedding of a number of frames; None if there is none.
        positions: lets the network add the positions of this process' frames.
        least_frames: of each process, where there are several.
    """

    def __init__(
        self,
        communicator: Communicator,
        scope: CallScope,
        cuts: Mapping[str, int],
        rotary: Callable[[int], Rotary] | None,
        positions: PositionsOfFrames,
        least_frames: int = 1,
    ) -> None:
        super().__init__()
        self._communicator, self._scope, self._cuts = communicator, scope, cuts
        self._rotary, self._positions, self._least_frames = rotary, positions, least_frames

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Calls with this process' frames."""
        communicator, call = self._communicator, bind_arguments(module, args, kwargs)
        hidden = call.arguments["hidden_states"]
        frames = hidden.shape[2]
        if frames > 1 and -(-frames // communicator.size) < self._least_frames:
            raise ParallelError(
                f"{frames} frames over {communicator.size} processes leave one to each, where the network adds no "
                "positions; take fewer processes"
            )
        for name, dim in self._cuts.items():
            if call.arguments.get(name) is not None:
                call.arguments[name] = communicator.shard(call.arguments[name], dim)
        rotary = None if self._rotary is None else self._rotary(frames)
        state = CallState(batch=len(hidden), length=frames, rotary=rotary)
        with self._scope.call(state), self._positions(communicator, frames):
            output = self.fn_ref.original_forward(*call.args, **call.kwargs)
        sample = communicator.all_gather(output[0], 2, OUTPUT)[:, :, :frames]
        return (sample,) if isinstance(output, tuple) else type(output)(sample=sample)


class _TokensHook(ModelHook):
    """Sits on a transformer whose first block takes this process' tokens: opens the call."""

    def __init__(self, scope: CallScope) -> None:
        super().__init__()
        self._scope = scope

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Calls."""
        with self._scope.call(CallState()):
            return self.fn_ref.original_forward(*args, **kwargs)


def _take_tokens(
    communicator: Communicator, scope: CallScope, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments of the first block, (B, T, S, D) and others: this process' tokens of each frame."""
    x_BTSD, *rest = args
    scope.state.batch, scope.state.length = len(x_BTSD), x_BTSD.shape[2]
    return (communicator.shard(x_BTSD, 2), *rest), kwargs


class _TokensEndHook(ModelHook):
    """Sits on the last layer: all tokens out."""

    def __init__(self, communicator: Communicator, scope: CallScope) -> None:
        super().__init__()
        self._communicator, self._scope = communicator, scope

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """The patches of all tokens."""
        patches = self.fn_ref.original_forward(*args, **kwargs)
        return self._communicator.all_gather(patches, 2, OUTPUT)[:, :, : self._scope.state.length]


class _AttentionHook(ModelHook):
    """Sits on an attention along the split axis."""

    def __init__(self, sharded: ShardedModel, scope: CallScope, axis: Axis) -> None:
        super().__init__()
        self._communicator, self._method, self._scope, self._axis = sharded.sequence, sharded.exchange, scope, axis

    def new_forward(self, module: nn.Module, hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Exchanges, attends, exchanges."""
        if isinstance(module, Attention):
            x = rearrange(hidden, "(B S) t D -> B t S D", B=self._scope.state.batch)
            output = self._exchange(module, x, lambda x, rotary: self._forward_of_latte(x, rotary, args, kwargs))
            return rearrange(output, "B t S D -> (B S) t D")
        if self._axis == "tokens":
            # The module takes (B, T, s, D), the exchange wants the split axis first.
            return self._exchange(module, hidden.transpose(1, 2), self._forward_transposed).transpose(1, 2)
        return self._exchange(module, hidden, self.fn_ref.original_forward)

    def _exchange(self, module: nn.Module, x_BaOD: Tensor, forward: dsp.Forward) -> Tensor:
        state = self._scope.state
        rest = (x_BaOD, state.rotary, state.length, self._communicator, EXCHANGING[self._axis])
        if self._method == "dsp":
            return dsp.attend(forward, *rest)
        attend = ulysses.attend if self._method == "ulysses" else megatron_sp.attend
        return attend(decompose(module), *rest)

    def _forward_transposed(self, x_BStD: Tensor, rotary: Rotary | None) -> Tensor:
        return self.fn_ref.original_forward(x_BStD.transpose(1, 2), rotary).transpose(1, 2)

    def _forward_of_latte(self, x_BTsD: Tensor, rotary: Rotary | None, args: Any, kwargs: dict[str, Any]) -> Tensor:
        changes = {"rotary": rotary} if "rotary" in kwargs else {}
        hidden = rearrange(x_BTsD, "B T s D -> (B s) T D")
        output = self.fn_ref.original_forward(hidden, *args, **{**kwargs, **changes})
        return rearrange(output, "(B s) T D -> B T s D", B=len(x_BTsD))
