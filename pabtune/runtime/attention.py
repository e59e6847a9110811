"""Which kernel computes attention: torch's own, or FlashAttention where it is installed and the device can."""

from collections.abc import Mapping
from importlib.util import find_spec

import torch
from diffusers import DiffusionPipeline
from diffusers.models.modeling_utils import ModelMixin
from torch import nn

from pabtune.libraries.diffusers_internals import attention_backend
from pabtune.models.open_sora_plan import LatteT2VTransformer3DModel
from pabtune.models.stdit3 import STDiT3Transformer3DModel
from pabtune.records.errors import ModelError
from pabtune.runtime.targets import Target

BACKENDS: Mapping[str, str] = {"sdpa": "native", "flash": "flash", "flash3": "_flash_3"}
"""Names of the command line, and diffusers' names for them."""

PACKAGES: Mapping[str, str] = {"flash": "flash_attn", "flash3": "flash_attn_interface"}

OWN_CLASSES = (STDiT3Transformer3DModel, LatteT2VTransformer3DModel)
"""They ask for FlashAttention only where there is no mask, which it cannot take; others may ask always."""


def use_attention(pipeline: DiffusionPipeline, kernel: str = "auto") -> str:
    """Chooses the kernel for all transformers of a pipeline; returns the choice.

    diffusers keeps the choice for the whole process: models that are loaded later have it too.

    Args:
        pipeline: on its device.
        kernel: `sdpa`, `flash`, `flash3`, or `auto`: FlashAttention for pabtune's own models where it can be used.

    Raises:
        ModelError: FlashAttention was asked for, but is not installed, or the device or precision cannot, or a transformer
            does not let its kernel be chosen.
    """
    transformers = list(Target.of(pipeline).transformers.values())
    if kernel == "auto":
        can = all(isinstance(part, OWN_CLASSES) and _missing_for_flash(part, "flash") is None for part in transformers)
        kernel = "flash" if can else "sdpa"
        if not can:
            return kernel
    for part in transformers:
        missing = _missing_for_flash(part, kernel) if kernel in PACKAGES else None
        if missing is not None:
            raise ModelError(f"--attention {kernel}: {missing}; leave it out to use torch's own attention")
        if not isinstance(part, ModelMixin):
            raise ModelError(f"--attention {kernel}: {type(part).__name__} does not let its attention be chosen")
        try:
            part.set_attention_backend(BACKENDS[kernel])
        except (RuntimeError, ValueError, ImportError) as error:
            raise ModelError(f"--attention {kernel}: {str(error).splitlines()[0]}") from error
    return kernel


def attention_in_use() -> str:
    """The kernel that is chosen now, by the name that the command line has for it, else by diffusers'."""
    active = attention_backend().value
    return next((name for name, backend in BACKENDS.items() if backend == active), active)


def _missing_for_flash(transformer: nn.Module, kernel: str) -> str | None:
    """What a FlashAttention kernel lacks for a transformer, in words; None if it can be used."""
    package = PACKAGES[kernel]
    if find_spec(package) is None:
        return f"the package {package} is not installed"
    first = next(transformer.parameters())
    if first.device.type != "cuda":
        return f"FlashAttention needs a CUDA device, but the model is on {first.device.type}"
    if first.dtype not in (torch.float16, torch.bfloat16):
        return f"FlashAttention needs --dtype bfloat16 or float16, not {str(first.dtype).removeprefix('torch.')}"
    return None
