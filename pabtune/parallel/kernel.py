"""Intercepting torch's attention kernel during a call, so that processes can split it.

The kernel is torch's scaled dot-product attention, which diffusers' attention processors call, directly or through the
dispatcher.

Shapes: B batch, H heads, N queries, M keys, d width of a head.
"""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from pabtune.libraries.diffusers_internals import AttentionBackendName, attention_backend
from pabtune.records.errors import ParallelError


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelCall:
    """Arguments of a call of the kernel.

    Attributes:
        query: (B, H, N, d).
        key: (B, H, M, d).
        value: (B, H, M, d).
        mask: broadcastable to (B, H, N, M), or None.
        is_causal: whether each query sees only the keys up to its own position.
        options: all other arguments.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None
    is_causal: bool
    options: Mapping[str, Any]

    @classmethod
    def of(cls, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Self:
        """Reads positional and keyword arguments."""
        names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
        values = {**dict(zip(names, args, strict=False)), **kwargs}
        return cls(
            query=values.pop("query"),
            key=values.pop("key"),
            value=values.pop("value"),
            mask=values.pop("attn_mask", None),
            is_causal=values.pop("is_causal", False),
            options=values,
        )

    def compute(self) -> Tensor:
        """Calls the kernel itself."""
        return scaled_dot_product_attention(
            self.query, self.key, self.value, attn_mask=self.mask, is_causal=self.is_causal, **self.options
        )


class KernelMode(TorchFunctionMode):
    """Context in which `attend` replaces the kernel.

    Attributes:
        calls: number of calls of the kernel so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is not scaled_dot_product_attention:
            return function(*args, **(kwargs or {}))
        self.calls += 1
        return self.attend(KernelCall.of(args, kwargs or {}))

    @abstractmethod
    def attend(self, call: KernelCall) -> Tensor:
        """The output of attention, (B, H, N, d)."""


def check_kernel() -> None:
    """Checks that diffusers uses torch's own kernel, which is the one that is intercepted.

    Raises:
        ParallelError: another kernel is selected.
    """
    backend = attention_backend()
    if backend is not AttentionBackendName.NATIVE:
        raise ParallelError(
            f"attention over several processes needs torch's own kernel, but {backend.value} is selected; use "
            "--attention sdpa"
        )
