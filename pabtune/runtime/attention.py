"""Which kernel computes attention: torch's own, or FlashAttention where it is installed and the device can."""

from collections.abc import Mapping
from importlib.util import find_spec

import torch
from diffusers import DiffusionPipeline
from diffusers.models import attention_dispatch
from diffusers.models.modeling_utils import ModelMixin
from torch import nn

from pabtune.models.open_sora_plan import LatteT2VTransformer3DModel
from pabtune.models.stdit3 import STDiT3Transformer3DModel
from pabtune.records.errors import ModelError
from pabtune.runtime.targets import Target

BACKENDS: Mapping[str, str] = {"sdpa": "native", "flash": "flash", "flash3": "_flash_3"}
"""Names of the command line, and diffusers' names for them."""

PACKAGES: Mapping[str, str] = {"flash": "flash_attn", "flash3": "flash_attn_interface"}

OWN_CLASSES = (STDiT3Transformer3DModel, LatteT2VTransformer3DModel)
"""They ask for FlashAttention only where there is no mask, which it cannot take; others may ask always."""


def use_attention(pipeline: DiffusionPipeline, asked: str = "auto") -> str:
    """Chooses the kernel for all transformers of a pipeline; returns the choice.

    diffusers keeps the choice for the whole process: models that are loaded later have it too.

    Args:
        pipeline: on its device.
        asked: `sdpa`, `flash`, `flash3`, or `auto`: FlashAttention for pabtune's own models where it can be used.

    Raises:
        ModelError: FlashAttention was asked for, but is not installed, or the device or precision cannot, or a transformer
            does not let its kernel be chosen.
    """
    transformers = list(Target.of(pipeline).transformers.values())
    if asked == "auto":
        can = all(isinstance(part, OWN_CLASSES) and _what_is_missing(part, "flash") is None for part in transformers)
        asked = "flash" if can else "sdpa"
        if not can:
            return asked
    for part in transformers:
        missing = _what_is_missing(part, asked) if asked in PACKAGES else None
        if missing is not None:
            raise ModelError(f"--attention {asked}: {missing}; leave it out to use torch's own attention")
        if not isinstance(part, ModelMixin):
            raise ModelError(f"--attention {asked}: {type(part).__name__} does not let its attention be chosen")
        try:
            part.set_attention_backend(BACKENDS[asked])
        except (RuntimeError, ValueError, ImportError) as error:
            raise ModelError(f"--attention {asked}: {str(error).splitlines()[0]}") from error
    return asked


def attention_in_use() -> str:
    """The kernel that is chosen now, in our words where there is one."""
    active = attention_dispatch._AttentionBackendRegistry._active_backend.value
    return next((name for name, backend in BACKENDS.items() if backend == active), active)


def _what_is_missing(transformer: nn.Module, asked: str) -> str | None:
    package = PACKAGES[asked]
    if find_spec(package) is None:
        return f"the package {package} is not installed"
    first = next(transformer.parameters())
    if first.device.type != "cuda":
        return f"FlashAttention needs a CUDA device, but the model is on {first.device.type}"
    if first.dtype not in (torch.float16, torch.bfloat16):
        return f"FlashAttention needs --dtype bfloat16 or float16, not {str(first.dtype).removeprefix('torch.')}"
    return None
