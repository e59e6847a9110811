"""Splitting spatial-temporal transformers over frames, or over the tokens of each frame.

With frames split only temporal attention communicates, with tokens split only spatial attention does; everything else works
on each frame, or each token, by itself.

Shapes: B batch, T frames and S tokens per frame of the entire video, t and s of this process (padded to a multiple of P
processes), D width.
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
"""Context of a call in which the network adds the positions of this process' part of a number of frames."""


def split_axis(sharded: ShardedModel, transformer: nn.Module, axis: Axis, axes: Sequence[Axis]) -> None:
    """Splits a transformer along an axis.

    Args:
        sharded: the split model, which records the hooks.
        transformer: a transformer whose card has a `FrameSplit`.
        axis: the axis to split.
        axes: the axes of its card.

    Raises:
        ParallelError: the transformer cannot be split along this axis.
    """
    name = type(transformer).__name__
    if axis not in axes:
        raise ParallelError(f"{name} can be split along {', '.join(axes)}, not along {axis}")
    if isinstance(transformer, STDiT3Transformer3DModel):
        _split_stdit3(sharded, transformer, axis)
    elif isinstance(transformer, LatteT2VTransformer3DModel):
        positions = partial(_offset_of_frames, transformer)
        _split_latte(sharded, transformer, partial(_temporal_rotary, transformer), positions)
    elif isinstance(transformer, LatteTransformer3DModel):
        _split_latte(sharded, transformer, None, partial(_part_of_buffer, transformer))
    else:
        raise ParallelError(
            f"{name} cannot be split along {axis}: only STDiT3 and Latte have code for it; leave `split` out of its card to "
            "split the work inside its sites instead"
        )


def _split_stdit3(sharded: ShardedModel, transformer: STDiT3Transformer3DModel, axis: Axis) -> None:
    patch_size = transformer.config["patch_size"]
    if patch_size[0] != 1:
        raise ParallelError(f"frames cannot be split: patches must hold one frame each, but patch_size is {patch_size}")
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
    """For diffusers' Latte, which keeps the positions of all frames in a buffer (1, T, D)."""
    buffer = transformer.temp_pos_embed
    transformer.temp_pos_embed = communicator.shard(buffer, 1)
    try:
        yield
    finally:
        transformer.temp_pos_embed = buffer


class _FramesHook(ModelHook):
    """Hook on a transformer that computes this process' frames and returns all frames.

    Args:
        communicator: processes that share the frames.
        scope: call state of the transformer.
        cuts: arguments with frames, and the dimension of the frames in each.
        rotary: makes the rotary embedding of a number of frames; None if there is none.
        positions: context in which the network adds the positions of this process' frames.
        least_frames: least number of frames of a process, for videos of several frames.
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
        """Calls the transformer with this process' frames and gathers the output."""
        communicator, call = self._communicator, bind_arguments(module, args, kwargs)
        hidden = call.arguments["hidden_states"]
        frames = hidden.shape[2]
        if frames > 1 and -(-frames // communicator.size) < self._least_frames:
            raise ParallelError(
                f"{frames} frames over {communicator.size} processes leave one to each, for which the network adds no "
                "positions; use fewer processes"
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
    """Hook on a transformer that opens the state of a call; its first block takes this process' tokens."""

    def __init__(self, scope: CallScope) -> None:
        super().__init__()
        self._scope = scope

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Calls the transformer."""
        with self._scope.call(CallState()):
            return self.fn_ref.original_forward(*args, **kwargs)


def _take_tokens(
    communicator: Communicator, scope: CallScope, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments of the first block, (B, T, S, D) and others, cut to this process' tokens of each frame."""
    x_BTSD, *rest = args
    scope.state.batch, scope.state.length = len(x_BTSD), x_BTSD.shape[2]
    return (communicator.shard(x_BTSD, 2), *rest), kwargs


class _TokensEndHook(ModelHook):
    """Hook on the last layer that returns all tokens."""

    def __init__(self, communicator: Communicator, scope: CallScope) -> None:
        super().__init__()
        self._communicator, self._scope = communicator, scope

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Calls the layer and gathers the patches of all tokens."""
        patches = self.fn_ref.original_forward(*args, **kwargs)
        return self._communicator.all_gather(patches, 2, OUTPUT)[:, :, : self._scope.state.length]


class _AttentionHook(ModelHook):
    """Hook on an attention along the split axis."""

    def __init__(self, sharded: ShardedModel, scope: CallScope, axis: Axis) -> None:
        super().__init__()
        self._communicator, self._method, self._scope, self._axis = sharded.sequence, sharded.exchange, scope, axis

    def new_forward(self, module: nn.Module, hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Attends over the entire axis by the method of sequence parallelism."""
        if isinstance(module, Attention):
            x = rearrange(hidden, "(B S) t D -> B t S D", B=self._scope.state.batch)
            output = self._attend(module, x, lambda x, rotary: self._forward_of_latte(x, rotary, args, kwargs))
            return rearrange(output, "B t S D -> (B S) t D")
        if self._axis == "tokens":
            # The module takes (B, T, s, D); the methods need the split axis first.
            return self._attend(module, hidden.transpose(1, 2), self._forward_transposed).transpose(1, 2)
        return self._attend(module, hidden, self.fn_ref.original_forward)

    def _attend(self, module: nn.Module, x_BaOD: Tensor, forward: dsp.Forward) -> Tensor:
        state = self._scope.state
        arguments = (x_BaOD, state.rotary, state.length, self._communicator, EXCHANGING[self._axis])
        if self._method == "dsp":
            return dsp.attend(forward, *arguments)
        attend = ulysses.attend if self._method == "ulysses" else megatron_sp.attend
        return attend(decompose(module), *arguments)

    def _forward_transposed(self, x_BStD: Tensor, rotary: Rotary | None) -> Tensor:
        return self.fn_ref.original_forward(x_BStD.transpose(1, 2), rotary).transpose(1, 2)

    def _forward_of_latte(self, x_BTsD: Tensor, rotary: Rotary | None, args: Any, kwargs: dict[str, Any]) -> Tensor:
        changes = {"rotary": rotary} if "rotary" in kwargs else {}
        hidden = rearrange(x_BTsD, "B T s D -> (B s) T D")
        output = self.fn_ref.original_forward(hidden, *args, **{**kwargs, **changes})
        return rearrange(output, "(B s) T D -> B T s D", B=len(x_BTsD))
