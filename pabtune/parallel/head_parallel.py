"""Head parallelism inside sites, for classes without a plan of how tokens are cut through the network.

Hidden states stay complete in every process. Self-attention shares its kernel by heads, MLPs share tokens; each gathers its
output inside the site's call, so that a broadcast sends nothing. Projections, cross-attention and everything between sites
are computed by every process: of long videos that is the smaller part.

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
"""Kinds whose kernels are shared. The kernel of cross-attention is too small to be worth an exchange."""

POINTWISE = (FeedForward, Kandinsky5FeedForward)
"""MLPs whose output for a token depends on that token alone."""


def split_heads(sharded: ShardedModel, transformer: nn.Module, sites: Sequence[Site]) -> None:
    """Shares the work inside a transformer's sites.

    Args:
        sharded: takes note of what is attached.
        transformer: any.
        sites: its sites.

    Raises:
        ParallelError: it has no site whose work could be shared, or attention goes through another kernel than torch's.
    """
    check_kernel()
    hooked, shared = 0, set[str]()
    for site in sites:
        module = transformer.get_submodule(site.path)
        if site.kind in SELF_ATTENTION:
            sharded.hook(module, _HeadsHook(sharded.sequence, site.kind, shared))
        elif isinstance(module, POINTWISE):
            sharded.hook(module, _TokensHook(sharded.sequence))
        else:
            continue
        hooked += 1
    if not hooked:
        raise ParallelError(f"{type(transformer).__name__} has no attention and no MLP whose work could be shared")


class HeadParallelKernel(KernelMode):
    """While it is active, each process attends with its heads. Keys and queries may be of any sequences.

    Args:
        communicator: of the processes that share the heads.
        purpose: what the traffic is counted under.
    """

    def __init__(self, communicator: Communicator, purpose: str) -> None:
        super().__init__()
        self._communicator, self._purpose = communicator, purpose

    def attend(self, call: KernelCall) -> Tensor:
        """The output (B, H, N, d) of queries (B, H, N, d), keys and values (B, H, M, d)."""
        heads, shard = call.query.shape[1], self._communicator.shard
        if call.query.ndim != 4 or not heads == call.key.shape[1] == call.value.shape[1]:
            return call.compute()  # heads that share keys are not split
        mask = call.mask
        if mask is not None and mask.ndim > 3 and mask.shape[1] == heads > 1:
            mask = shard(mask, 1)
        local = replace(call, query=shard(call.query, 1), key=shard(call.key, 1), value=shard(call.value, 1), mask=mask)
        return self._communicator.all_gather(local.compute(), 1, self._purpose)[:, :heads]


class _HeadsHook(ModelHook):
    """Sits on a self-attention.

    Args:
        communicator: of the processes that share the heads.
        purpose: what the traffic is counted under.
        shared: where all these hooks of a transformer take note that a kernel was shared.
    """

    def __init__(self, communicator: Communicator, purpose: str, shared: set[str]) -> None:
        super().__init__()
        self._communicator, self._purpose, self._shared = communicator, purpose, shared

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Calls with a kernel that is shared."""
        kernel = HeadParallelKernel(self._communicator, self._purpose)
        with kernel:
            output = self.fn_ref.original_forward(*args, **kwargs)
        if kernel.calls:
            self._shared.add(self._purpose)
        elif not self._shared:  # a model that attends by the kernel may have passes that leave it out
            raise ParallelError(f"{type(module).__name__} attends by another kernel than torch's; it cannot be shared")
        return output


class _TokensHook(ModelHook):
    """Sits on an MLP."""

    def __init__(self, communicator: Communicator) -> None:
        super().__init__()
        self._communicator = communicator

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Calls with this process' tokens of (B, N, D), returns all; does not share calls with further arguments."""
        call = bind_arguments(module, args, kwargs)
        ((name, x), *others) = call.arguments.items()
        if others or not isinstance(x, Tensor) or x.ndim != 3:
            return self.fn_ref.original_forward(*args, **kwargs)
        call.arguments[name] = self._communicator.shard(x, 1)
        output = self.fn_ref.original_forward(*call.args, **call.kwargs)
        return self._communicator.all_gather(output, 1, "mlp")[:, : x.shape[1]]
