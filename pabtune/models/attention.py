"""Which kernel computes attention: torch's own, or FlashAttention where it is installed and the device can."""

from collections.abc import Mapping
from importlib.util import find_spec

import torch
from diffusers import DiffusionPipeline
from diffusers.models.modeling_utils import ModelMixin

from pabtune.models.open_sora_plan import LatteT2VTransformer3DModel
from pabtune.models.stdit3 import STDiT3Transformer3DModel
from pabtune.records.errors import ModelError

BACKENDS: Mapping[str, str] = {"sdpa": "native", "flash": "flash", "flash3": "_flash_3"}
"""Names of the command line, and diffusers' names for them."""

ATTENTIONS = ("auto", *BACKENDS)

PACKAGES: Mapping[str, str] = {"flash": "flash_attn", "flash3": "flash_attn_interface"}

OWN_CLASSES = (STDiT3Transformer3DModel, LatteT2VTransformer3DModel)
"""They ask for FlashAttention only where there is no mask, which it cannot take; others may ask always."""


def use_attention(pipeline: DiffusionPipeline, asked: str = "auto") -> str:
    """Chooses the kernel for all transformers of a pipeline; returns the choice.

    Args:
        pipeline: on its device.
        asked: `sdpa`, `flash`, `flash3`, or `auto`: FlashAttention for pabtune's own models where it can be used.

    Raises:
        ModelError: FlashAttention was asked for, but is not installed, or the device or precision cannot.
    """
    transformers = [part for part in pipeline.components.values() if isinstance(part, ModelMixin)]
    transformers = [part for part in transformers if hasattr(part, "cache_context")]
    if asked == "auto":
        is_own = all(isinstance(part, OWN_CLASSES) for part in transformers)
        if not is_own or any(_what_is_missing(part, "flash") for part in transformers):
            return "sdpa"
        asked = "flash"
    for part in transformers:
        missing = _what_is_missing(part, asked) if asked in PACKAGES else None
        if missing is not None:
            raise ModelError(f"--attention {asked}: {missing}; leave it out to use torch's own attention")
        try:
            part.set_attention_backend(BACKENDS[asked])
        except (RuntimeError, ValueError, ImportError) as error:
            raise ModelError(f"--attention {asked}: {str(error).splitlines()[0]}") from error
    return asked


def _what_is_missing(transformer: ModelMixin, asked: str) -> str | None:
    package = PACKAGES[asked]
    if find_spec(package) is None:
        return f"the package {package} is not installed"
    if transformer.device.type != "cuda":
        return f"FlashAttention needs a CUDA device, but the model is on {transformer.device.type}"
    if transformer.dtype not in (torch.float16, torch.bfloat16):
        return f"FlashAttention needs --dtype bfloat16 or float16, not {str(transformer.dtype).removeprefix('torch.')}"
    return None
