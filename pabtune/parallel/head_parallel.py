"""Head parallelism inside sites, for classes without a token split.

Hidden states stay complete in every process. Self-attention splits its kernel by heads, MLPs split their tokens; both gather
their output inside the site's call, so a broadcast sends nothing. Every process computes projections, cross-attention and
everything between sites, which is the smaller part for long videos.

Shapes: B batch, H heads, h = H / P (H padded to a multiple of P processes), N and M tokens, d width of a head, D of a token.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from diffusers.hooks import ModelHook
from diffusers.models.attention import FeedForward
from diffusers.models.transformers.transformer_kandinsky import Kandinsky5FeedForward
from torch import Tensor, nn

from pabtune.parallel.collectives import Communicator
from pabtune.parallel.kernel import KernelCall, KernelMode, check_kernel
from pabtune.parallel.sharded_model import ShardedModel, bind_arguments
from pabtune.records.errors import ParallelError
from pabtune.records.sites import Site

SELF_ATTENTION = ("full", "spatial", "temporal")
"""Kinds whose kernel is split. The kernel of cross-attention is too small to be worth the communication."""

POINTWISE = (FeedForward, Kandinsky5FeedForward)
"""Classes of MLPs whose output for a token depends on that token alone."""


def split_heads(sharded: ShardedModel, transformer: nn.Module, sites: Sequence[Site]) -> None:
    """Splits the work inside a transformer's sites.

    Args:
        sharded: the split model, which records the hooks.
        transformer: a transformer of any class.
        sites: its sites.

    Raises:
        ParallelError: no site's work can be split, or attention uses another kernel than torch's.
    """
    check_kernel()
    hooks, split_kinds = 0, set[str]()
    for site in sites:
        module = transformer.get_submodule(site.path)
        if site.kind in SELF_ATTENTION:
            sharded.hook(module, _HeadsHook(sharded.sequence, site.kind, split_kinds))
        elif isinstance(module, POINTWISE):
            sharded.hook(module, _TokensHook(sharded.sequence))
        else:
            continue
        hooks += 1
    if not hooks:
        raise ParallelError(f"{type(transformer).__name__} has no self-attention and no MLP whose work can be split")


class HeadParallelKernel(KernelMode):
    """Kernel mode in which each process attends with some heads. Queries and keys may be of different sequences.

    Args:
        communicator: processes that share the heads.
        purpose: label under which traffic is counted.
    """

    def __init__(self, communicator: Communicator, purpose: str) -> None:
        super().__init__()
        self._communicator, self._purpose = communicator, purpose

    def attend(self, call: KernelCall) -> Tensor:
        """The output (B, H, N, d) of queries (B, H, N, d), keys and values (B, H, M, d)."""
        heads, shard = call.query.shape[1], self._communicator.shard
        if call.query.ndim != 4 or not heads == call.key.shape[1] == call.value.shape[1]:
            return call.compute()  # grouped-query attention is not split
        mask = call.mask
        if mask is not None and mask.ndim > 2 and mask.shape[-3] == heads > 1:
            mask = shard(mask, mask.ndim - 3)
        local = replace(call, query=shard(call.query, 1), key=shard(call.key, 1), value=shard(call.value, 1), mask=mask)
        return self._communicator.all_gather(local.compute(), 1, self._purpose)[:, :heads]


class _HeadsHook(ModelHook):
    """Hook on a self-attention that splits its kernel by heads.

    Args:
        communicator: processes that share the heads.
        purpose: label under which traffic is counted.
        split_kinds: purposes for which any hook of this transformer has split a kernel.
    """

    def __init__(self, communicator: Communicator, purpose: str, split_kinds: set[str]) -> None:
        super().__init__()
        self._communicator, self._purpose, self._split_kinds = communicator, purpose, split_kinds

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Calls the module with a split kernel."""
        kernel = HeadParallelKernel(self._communicator, self._purpose)
        with kernel:
            output = self.fn_ref.original_forward(*args, **kwargs)
        if kernel.calls:
            self._split_kinds.add(self._purpose)
        elif not self._split_kinds:  # a model that uses the kernel may have calls that skip it
            raise ParallelError(
                f"{type(module).__name__} does not use torch's attention kernel; its work cannot be split"
            )
        return output


class _TokensHook(ModelHook):
    """Hook on an MLP that splits its tokens."""

    def __init__(self, communicator: Communicator) -> None:
        super().__init__()
        self._communicator = communicator

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Computes this process' tokens of (B, N, D) and returns all; calls with further arguments are not split."""
        call = bind_arguments(module, args, kwargs)
        ((name, x), *others) = call.arguments.items()
        if others or not isinstance(x, Tensor) or x.ndim != 3:
            return self.fn_ref.original_forward(*args, **kwargs)
        call.arguments[name] = self._communicator.shard(x, 1)
        output = self.fn_ref.original_forward(*call.args, **call.kwargs)
        return self._communicator.all_gather(output, 1, "mlp")[:, : x.shape[1]]
