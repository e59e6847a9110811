"""Splitting spatial-temporal transformers: over frames, where temporal attention exchanges, or over the tokens of a frame,
where spatial attention does. Everything else works on frames, or on tokens, alone.

Shapes: B batch, T frames and S tokens of the whole video; t, s those of this process (padded to a multiple of P); D width.
"""

from collections.abc import Callable, Mapping
from functools import partial
from inspect import BoundArguments
from typing import TYPE_CHECKING, Any

from diffusers import DiffusionPipeline
from diffusers.hooks import ModelHook
from diffusers.models.attention_processor import Attention
from einops import rearrange
from torch import Tensor, nn

from pabtune.catalog import CATALOG, Catalog
from pabtune.parallel.attention import Rotary, parts_of
from pabtune.parallel.axis import by_gathering, by_heads, by_switching
from pabtune.parallel.collectives import padded
from pabtune.parallel.samples import OUTPUT
from pabtune.planning.sharding import EXCHANGING, Axis
from pabtune.records.errors import ParallelError
from pabtune.runtime.interception import PARALLEL_HOOK
from pabtune.runtime.targets import Target

if TYPE_CHECKING:
    from pabtune.parallel.split import Split


def axes_of(pipeline: DiffusionPipeline, catalog: Catalog = CATALOG) -> tuple[Axis, ...]:
    """Axes along which a pipeline's transformer can be split; none for full attention."""
    first = next(iter(Target.of(pipeline, catalog).maps.values()))
    return first.card.axes if first.card is not None else ()


def split_axis(split: "Split", transformer: nn.Module, axis: Axis, axes: tuple[Axis, ...]) -> None:
    """Splits a transformer along an axis.

    Args:
        split: takes note of what is to be undone.
        transformer: of a class whose card has a `FrameSplit`.
        axis: which.
        axes: of the card.

    Raises:
        ParallelError: that axis of that class cannot be split.
    """
    name = type(transformer).__name__
    if axis not in axes:
        raise ParallelError(f"{name} can be split over {', '.join(axes)}, not over {axis}")
    if name == "STDiT3Transformer3DModel":
        _split_stdit3(split, transformer, axis)
    else:
        _split_latte(split, transformer)


def _split_stdit3(split: "Split", transformer: Any, axis: Axis) -> None:
    if transformer.config.patch_size[0] != 1:
        raise ParallelError("frames cannot be split where patches hold several of them")
    if axis == "frames":
        cuts = {"hidden_states": 2, "x_mask": 1}
        split.hook(transformer, _FramesHook(split, cuts, transformer.rope), f"{PARALLEL_HOOK}_frames")
        for block in transformer.temporal_blocks:
            split.hook(block.attn, _AxisHook(split, axis))
        return
    split.before(transformer.spatial_blocks[0], partial(_own_tokens, split))
    split.hook(transformer.final_layer, _TokensEndHook(split))
    for block in transformer.spatial_blocks:
        split.hook(block.attn, _AxisHook(split, axis))


def _split_latte(split: "Split", transformer: Any) -> None:
    is_ours = hasattr(transformer, "_rotary")  # Open-Sora-Plan's; diffusers' has no rotary embedding
    if is_ours:

        def positions(frames: int, like: Tensor) -> Tensor:
            # `frames` are those of this process: its own places in the whole video are what counts.
            return _own(split, type(transformer)._frame_positions(transformer, split.whole, like), 0)

        def rotary(frames: int) -> Rotary:
            spatial_and_temporal = transformer._rotary(1, 1, frames, transformer.device)
            return spatial_and_temporal[1]

        split.patch(transformer, "_frame_positions", positions)
    else:
        rotary = None  # type: ignore[assignment]
    split.hook(transformer, _FramesHook(split, {"hidden_states": 2}, rotary, transformer), f"{PARALLEL_HOOK}_frames")
    for block in transformer.temporal_transformer_blocks:
        split.hook(block.attn1, _AxisHook(split, "frames"))


def _own(split: "Split", x: Tensor, dim: int) -> Tensor:
    """This process' part of a tensor, padded with zeros."""
    exchange = split.sequence
    return padded(x, dim, exchange.size).chunk(exchange.size, dim=dim)[exchange.rank]


class _FramesHook(ModelHook):
    """Sits on a transformer: own frames of the inputs in, the whole output out.

    Args:
        split: of it.
        cuts: arguments with frames, and their dimension of them.
        rotary: rotary embedding of so many frames; None if there is none.
        positions: module with a buffer `temp_pos_embed` (1, T, D), of which this process' part is needed.
    """

    def __init__(
        self,
        split: "Split",
        cuts: Mapping[str, int],
        rotary: Callable[[int], Rotary] | None,
        positions: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self._split, self._cuts, self._rotary, self._positions = split, cuts, rotary, positions

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Calls with this process' frames."""
        split = self._split
        call = split.bind(module, args, kwargs)
        hidden = call.arguments["hidden_states"]
        split.batch, split.whole = len(hidden), hidden.shape[2]
        if self._positions is not None and split.whole > 1 and -(-split.whole // split.sequence.size) == 1:
            raise ParallelError(
                f"{split.whole} frames over {split.sequence.size} processes leave one to each, where the network adds no "
                "positions; take fewer processes"
            )
        split.rotary = None if self._rotary is None else self._rotary(split.whole)
        for name, dim in self._cuts.items():
            if call.arguments.get(name) is not None:
                call.arguments[name] = _own(split, call.arguments[name], dim)
        output = self._with_own_positions(call)
        sample = split.sequence.gather(output[0], 2, OUTPUT)[:, :, : split.whole]
        return (sample,) if isinstance(output, tuple) else type(output)(sample=sample)

    def _with_own_positions(self, call: BoundArguments) -> Any:
        buffer = getattr(self._positions, "temp_pos_embed", None)
        if buffer is None:
            return self.fn_ref.original_forward(*call.args, **call.kwargs)
        assert self._positions is not None
        self._positions.temp_pos_embed = _own(self._split, buffer, 1)
        try:
            return self.fn_ref.original_forward(*call.args, **call.kwargs)
        finally:
            self._positions.temp_pos_embed = buffer


def _own_tokens(
    split: "Split", _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments of the first block, (B, T, S, D) and others: this process' tokens of each frame."""
    x_BTSD, *rest = args
    split.batch, split.whole, split.rotary = len(x_BTSD), x_BTSD.shape[2], None
    return (_own(split, x_BTSD, 2), *rest), kwargs


class _TokensEndHook(ModelHook):
    """Sits on the last layer: all tokens out."""

    def __init__(self, split: "Split") -> None:
        super().__init__()
        self._split = split

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Returns what the last layer makes of all tokens."""
        patches = self.fn_ref.original_forward(*args, **kwargs)
        return self._split.sequence.gather(patches, 2, OUTPUT)[:, :, : self._split.whole]


class _AxisHook(ModelHook):
    """Attention along the split axis."""

    def __init__(self, split: "Split", axis: Axis) -> None:
        super().__init__()
        self._split, self._axis = split, axis

    def new_forward(self, module: nn.Module, hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Exchanges, attends, exchanges."""
        split = self._split
        if isinstance(module, Attention):
            x = rearrange(hidden, "(B S) t D -> B t S D", B=split.batch)
            made = self._exchange(module, x, lambda x, rotary: self._forward_of_latte(x, rotary, args, kwargs))
            return rearrange(made, "B t S D -> (B S) t D")
        if self._axis == "tokens":
            # Along tokens: the module takes (B, T, s, D), the exchange wants the split axis first.
            made = self._exchange(module, hidden.transpose(1, 2), self._forward_transposed)
            return made.transpose(1, 2)
        return self._exchange(module, hidden, self.fn_ref.original_forward)

    def _exchange(self, module: nn.Module, x_BaOD: Tensor, forward: Callable[..., Tensor]) -> Tensor:
        split, purpose = self._split, EXCHANGING[self._axis]
        rest = (x_BaOD, split.rotary, split.whole, split.sequence, purpose)
        if split.parallel == "dsp":
            return by_switching(forward, *rest)
        way = by_heads if split.parallel == "ulysses" else by_gathering
        return way(parts_of(module), *rest)

    def _forward_transposed(self, x_BStD: Tensor, rotary: Rotary | None) -> Tensor:
        return self.fn_ref.original_forward(x_BStD.transpose(1, 2), rotary).transpose(1, 2)

    def _forward_of_latte(self, x_BTsD: Tensor, rotary: Rotary | None, args: Any, kwargs: dict[str, Any]) -> Tensor:
        known = {"rotary": rotary} if "rotary" in kwargs else {}
        made = self.fn_ref.original_forward(rearrange(x_BTsD, "B T s D -> (B s) T D"), *args, **{**kwargs, **known})
        return rearrange(made, "(B s) T D -> B T s D", B=len(x_BTsD))
