"""Splitting a spatial-temporal transformer over processes, from outside: frames, and guidance branches.

A hook on the transformer hands each process its part of the inputs and gathers the output; hooks on temporal attention
exchange. Everything else works on frames alone. Attach before a policy is enabled: what a policy skips then sends nothing.
"""

from typing import Any

from diffusers import DiffusionPipeline
from diffusers.hooks import HookRegistry, ModelHook
from torch import Tensor, nn

from pabtune.models.stdit3 import STDiT3Transformer3DModel
from pabtune.parallel.collectives import Exchange, Traffic, padded
from pabtune.parallel.mesh import Mesh
from pabtune.parallel.temporal import Rotary, by_gathering, by_heads, by_tokens
from pabtune.planning.costs.communication import PARALLELS, Parallel
from pabtune.records.errors import ParallelError

HOOK = "pabtune_parallel"
OUTPUT = "output"
"""Purpose of the exchange at the end of a call, which no policy saves."""


class Split:
    """A transformer that is split over the processes of a mesh. Made by `split`.

    Attributes:
        traffic: what this process sent.
    """

    def __init__(self, transformer: STDiT3Transformer3DModel, mesh: Mesh, parallel: Parallel) -> None:
        self.traffic = Traffic()
        self.parallel = parallel
        self.frames = 0
        self.rotary: Rotary | None = None
        self.sequence = Exchange(mesh, "sequence", self.traffic)
        self.branches = Exchange(mesh, "branches", self.traffic)
        self._hooked: list[nn.Module] = []
        self._hook(transformer, _Root(self))
        if self.sequence.size > 1:
            for block in transformer.temporal_blocks:
                self._hook(block.attn, _Temporal(self))

    def remove(self) -> None:
        """Leaves the transformer as it was."""
        while self._hooked:
            module = self._hooked.pop()
            module._diffusers_hook.remove_hook(HOOK, recurse=False)
            if not module._diffusers_hook.hooks:
                del module._diffusers_hook
                vars(module).pop("forward", None)

    def _hook(self, module: nn.Module, hook: ModelHook) -> None:
        HookRegistry.check_if_exists_or_initialize(module).register_hook(hook, HOOK)
        self._hooked.append(module)


class _Root(ModelHook):
    """Own part of the inputs in, the whole output out."""

    def __init__(self, split: Split) -> None:
        super().__init__()
        self._split = split

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Calls with this process' part."""
        if args:
            raise ParallelError("a split transformer is called with named arguments only")
        split = self._split
        hidden = kwargs["hidden_states"]
        batch, split.frames = hidden.shape[0], hidden.shape[2]
        split.rotary = module.rope(split.frames)  # type: ignore[operator]
        branches, sequence = split.branches, split.sequence
        if batch % branches.size:
            raise ParallelError(
                f"{branches.size} processes share guidance branches, but a call has {batch} samples: is guidance on, and "
                "in one call?"
            )
        own = {name: _own_samples(value, batch, branches) for name, value in kwargs.items()}
        for name, dim in (("hidden_states", 2), ("x_mask", 1)):
            if own.get(name) is not None:
                parts = padded(own[name], dim, sequence.size).chunk(sequence.size, dim=dim)
                own[name] = parts[sequence.rank]
        output = self.fn_ref.original_forward(**own)
        sample = output[0]
        if sequence.size > 1:
            sample = sequence.gather(sample, 2, OUTPUT)[:, :, : split.frames]
        if branches.size > 1:
            sample = branches.gather(sample, 0, OUTPUT)
        return (sample,) if isinstance(output, tuple) else type(output)(sample=sample)


class _Temporal(ModelHook):
    """Temporal attention over all frames."""

    def __init__(self, split: Split) -> None:
        super().__init__()
        self._split = split

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Exchanges, attends, exchanges."""
        x_BtSD, frames, exchange = args[0], self._split.frames, self._split.sequence
        rotary = self._split.rotary
        if self._split.parallel == "dsp":
            return by_tokens(self.fn_ref.original_forward, x_BtSD, rotary, frames, exchange)
        way = by_heads if self._split.parallel == "ulysses" else by_gathering
        return way(module, x_BtSD, rotary, frames, exchange)  # type: ignore[arg-type]


def _own_samples(value: Any, batch: int, branches: Exchange) -> Any:
    """This process' samples of an argument that has as many as the batch."""
    if branches.size == 1 or not isinstance(value, Tensor) or value.ndim == 0 or len(value) != batch:
        return value
    return value.chunk(branches.size)[branches.rank]


def split(model: DiffusionPipeline | nn.Module, mesh: Mesh, parallel: Parallel = "dsp") -> Split:
    """Splits a model's transformer over the processes of a mesh; every process calls it, before a policy is enabled.

    All processes then make the same calls with the same arguments, and get the same output.

    Args:
        model: a pipeline with an STDiT3, or that transformer.
        mesh: the processes.
        parallel: how temporal attention exchanges: `dsp`, `ulysses` or `megatron-sp`.

    Raises:
        ParallelError: another transformer or way, or a policy is enabled already.
    """
    transformer = getattr(model, "transformer", model)
    if not isinstance(transformer, STDiT3Transformer3DModel):
        raise ParallelError(
            f"{type(transformer).__name__} cannot be split over processes yet; STDiT3Transformer3DModel can"
        )
    if transformer.config.patch_size[0] != 1:
        raise ParallelError("frames cannot be split where patches hold several of them")
    if parallel not in PARALLELS:
        raise ParallelError(f"unknown way {parallel!r}; known: {', '.join(PARALLELS)}")
    if getattr(transformer, "_diffusers_hook", None) is not None and transformer._diffusers_hook.hooks:
        raise ParallelError(
            "the transformer has hooks: split it once, and before a policy, a cache or offloading is enabled"
        )
    return Split(transformer, mesh, parallel)
