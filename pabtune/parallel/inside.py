"""Sharing the work inside sites, where nothing tells how tokens could be cut through the whole network.

Hidden states stay whole in every process. Self-attention shares its kernel by heads, MLPs share tokens; each gathers what it
made, inside the site's call, so that a broadcast sends nothing. Projections, cross-attention and everything between sites are
computed by every process: of long videos that is the smaller part.

Shapes: B batch, H heads, h = H / P (H padded to a multiple of P processes), N and M tokens, d width of a head, D of a token.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from diffusers.hooks import ModelHook
from diffusers.models.attention import FeedForward
from diffusers.models.transformers.transformer_kandinsky import Kandinsky5FeedForward
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from pabtune.parallel.collectives import Exchange, padded
from pabtune.parallel.heads import check_kernel
from pabtune.records.errors import ParallelError
from pabtune.records.sites import Site

if TYPE_CHECKING:
    from pabtune.parallel.split import Split

SELF_ATTENTION = ("full", "spatial", "temporal")
"""Kinds whose kernels are shared. The kernel of cross-attention is too small to be worth an exchange."""

POINTWISE = (FeedForward, Kandinsky5FeedForward)
"""MLPs of which it is known that what they make of a token hangs on that token alone."""


def split_inside(split: "Split", transformer: nn.Module, sites: Sequence[Site]) -> None:
    """Shares the work inside a transformer's sites.

    Args:
        split: takes note of what is to be undone.
        transformer: any.
        sites: of the transformer.

    Raises:
        ParallelError: it has no site whose work could be shared, or attention goes through another kernel than torch's.
    """
    check_kernel()
    hooked, shared = 0, set[str]()
    for site in sites:
        module = transformer.get_submodule(site.path)
        if site.kind in SELF_ATTENTION:
            split.hook(module, _HeadsHook(split.sequence, site.kind, shared))
        elif isinstance(module, POINTWISE):
            split.hook(module, _TokensHook(split))
        else:
            continue
        hooked += 1
    if not hooked:
        raise ParallelError(f"{type(transformer).__name__} has no attention and no MLP whose work could be shared")


class KernelByHeads(TorchFunctionMode):
    """While it is active, each process attends with its own heads. Keys and queries may be of any sequences.

    Args:
        exchange: with the other processes.
        purpose: that the traffic is counted under.

    Attributes:
        calls: of the kernel, so far.
    """

    def __init__(self, exchange: Exchange, purpose: str) -> None:
        super().__init__()
        self.calls = 0
        self._exchange, self._purpose = exchange, purpose

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function is not scaled_dot_product_attention:
            return function(*args, **kwargs)
        self.calls += 1
        given = {**dict(zip(("query", "key", "value", "attn_mask"), args, strict=False)), **kwargs}
        q, k, v = (given.pop(name) for name in ("query", "key", "value"))
        if q.ndim != 4 or not q.shape[1] == k.shape[1] == v.shape[1]:
            return function(q, k, v, **given)  # heads that share keys are not cut
        return self._attend(q, k, v, given.pop("attn_mask", None), given)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, options: dict[str, Any]) -> Tensor:
        """(B, H, N, d) of queries (B, H, N, d), keys and values (B, H, M, d)."""
        heads = q.shape[1]
        if mask is not None and mask.ndim > 3 and mask.shape[1] == heads > 1:
            mask = self._own(mask)
        own = scaled_dot_product_attention(*(self._own(x) for x in (q, k, v)), attn_mask=mask, **options)
        return self._exchange.gather(own, 1, self._purpose)[:, :heads]

    def _own(self, x_BHNd: Tensor) -> Tensor:
        return padded(x_BHNd, 1, self._exchange.size).chunk(self._exchange.size, dim=1)[self._exchange.rank]


class _HeadsHook(ModelHook):
    """Sits on a self-attention.

    Args:
        exchange: with the other processes.
        purpose: that the traffic is counted under.
        shared: where all these hooks of a transformer take note that a kernel was shared.
    """

    def __init__(self, exchange: Exchange, purpose: str, shared: set[str]) -> None:
        super().__init__()
        self._exchange, self._purpose, self._shared = exchange, purpose, shared

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Calls with a kernel that is shared."""
        kernel = KernelByHeads(self._exchange, self._purpose)
        with kernel:
            output = self.fn_ref.original_forward(*args, **kwargs)
        if kernel.calls:
            self._shared.add(self._purpose)
        elif not self._shared:  # a model that attends by the kernel may have passes that leave it out
            raise ParallelError(f"{type(module).__name__} attends by another kernel than torch's; it cannot be shared")
        return output


class _TokensHook(ModelHook):
    """Sits on an MLP."""

    def __init__(self, split: "Split") -> None:
        super().__init__()
        self._split = split

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Calls with this process' tokens of (B, N, D), returns all; whole where something else comes along with them."""
        call = self._split.bind(module, args, kwargs)
        ((name, x), *others) = call.arguments.items()
        if others or not isinstance(x, Tensor) or x.ndim != 3:
            return self.fn_ref.original_forward(*args, **kwargs)
        exchange = self._split.sequence
        call.arguments[name] = padded(x, 1, exchange.size).chunk(exchange.size, dim=1)[exchange.rank]
        made = self.fn_ref.original_forward(*call.args, **call.kwargs)
        return exchange.gather(made, 1, "mlp")[:, : x.shape[1]]
