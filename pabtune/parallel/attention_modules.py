"""Self-attention modules decomposed into projections, norms, rotary embedding and kernel, for sequence parallelism.

Knows the attention modules of spatial-temporal models, but nothing of processes.

Shapes: B batch, N tokens that attend to each other, D width, h heads, d = D / h.
"""

from collections.abc import Callable
from dataclasses import dataclass

from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from pabtune.models.open_sora_plan.transformer import RotaryProcessor, rotate_halves
from pabtune.models.stdit3 import SelfAttention, attention, rotate
from pabtune.records.errors import ParallelError

Rotary = tuple[Tensor, Tensor]
Weights = tuple[Tensor, Tensor | None]
"""Weight and bias of a linear layer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionModule:
    """A self-attention module, decomposed.

    Attributes:
        heads: number of heads h.
        project: maps x (…, D) to queries, keys and values, (…, h, d) each.
        projection_weights: returns the weights of these three projections.
        normalise: normalises queries and keys.
        rotate: applies a rotary embedding to queries or keys (B, N, h, d).
        attend: the kernel; maps queries, keys and values (B, N, h, d) to values.
        finish: projects values of all heads (…, D) to the output.
        output_weights: returns the weights of `finish`.
    """

    heads: int
    project: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]
    projection_weights: Callable[[], tuple[Weights, Weights, Weights]]
    normalise: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    rotate: Callable[[Tensor, Rotary], Tensor]
    attend: Callable[[Tensor, Tensor, Tensor], Tensor]
    finish: Callable[[Tensor], Tensor]
    output_weights: Callable[[], Weights]


def decompose(module: nn.Module) -> AttentionModule:
    """Decomposes a self-attention module of a spatial-temporal model.

    Raises:
        ParallelError: the class is not known.
    """
    if isinstance(module, SelfAttention):
        return _of_stdit3(module)
    if isinstance(module, Attention):
        return _of_latte(module)
    raise ParallelError(f"the attention of {type(module).__name__} cannot be split by heads; use dsp")


def _of_stdit3(module: SelfAttention) -> AttentionModule:
    def project(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = module.qkv(x).unflatten(-1, (3, module.num_heads, -1)).unbind(-3)
        return q, k, v

    def weights() -> tuple[Weights, Weights, Weights]:
        weight, bias = _plain(module.qkv)
        biases = (None,) * 3 if bias is None else bias.chunk(3)
        q, k, v = zip(weight.chunk(3), biases, strict=True)
        return q, k, v

    return AttentionModule(
        heads=module.num_heads,
        project=project,
        projection_weights=weights,
        normalise=lambda q, k: (module.q_norm(q), module.k_norm(k)),
        rotate=rotate,
        attend=attention,
        finish=module.proj,
        output_weights=lambda: _plain(module.proj),
    )


def _of_latte(module: Attention) -> AttentionModule:
    layers: tuple[nn.Module, ...] = (module.to_q, module.to_k, module.to_v)
    rotary_parts = module.processor.parts if isinstance(module.processor, RotaryProcessor) else 0

    def project(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = (layer(x).unflatten(-1, (module.heads, -1)) for layer in layers)
        return q, k, v

    def weights() -> tuple[Weights, Weights, Weights]:
        q, k, v = map(_plain, layers)
        return q, k, v

    return AttentionModule(
        heads=module.heads,
        project=project,
        projection_weights=weights,
        normalise=lambda q, k: (q, k),
        rotate=lambda x, rotary: rotate_halves(x, rotary, rotary_parts),
        attend=dispatch_attention_fn,
        finish=module.to_out[0],
        output_weights=lambda: _plain(module.to_out[0]),
    )


def _plain(layer: nn.Module) -> Weights:
    """Weights of a plain linear layer; refuses adapters and quantized layers, which do more than multiply and add."""
    if type(layer) is not nn.Linear:
        raise ParallelError(
            f"megatron-sp splits the weights of plain linear layers, but got a {type(layer).__name__}; use dsp or ulysses"
        )
    return layer.weight, layer.bias
