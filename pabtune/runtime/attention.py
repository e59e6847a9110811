"""Choice of the attention kernel: torch's own, or FlashAttention if it is installed and the device supports it."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec

import torch
from diffusers import DiffusionPipeline
from diffusers.models.modeling_utils import ModelMixin
from torch import nn

from pabtune.libraries.diffusers_internals import attention_backend
from pabtune.models.open_sora_plan import LatteT2VTransformer3DModel
from pabtune.models.stdit3 import STDiT3Transformer3DModel
from pabtune.records.errors import ModelError, first_line
from pabtune.runtime.targets import Target

BACKENDS: Mapping[str, str] = {"sdpa": "native", "flash": "flash", "flash3": "_flash_3"}
"""diffusers' name of each kernel, by its name on the command line."""

PACKAGES: Mapping[str, str] = {"flash": "flash_attn", "flash3": "flash_attn_interface"}
"""Python package that each FlashAttention kernel needs."""

OWN_CLASSES = (STDiT3Transformer3DModel, LatteT2VTransformer3DModel)
"""Classes that request FlashAttention only without a mask, which it does not support; other classes may request it always."""


def use_attention(pipeline: DiffusionPipeline, kernel: str = "auto") -> str:
    """Sets the attention kernel of all transformers of a pipeline and returns its name.

    diffusers keeps the choice for the process: models that are loaded later use it too.

    Args:
        pipeline: the pipeline, on its device.
        kernel: `sdpa`, `flash`, `flash3`, or `auto`: FlashAttention for pabtune's own models if it can be used; or a name of
            diffusers'.

    Raises:
        ModelError: the requested kernel is not installed, does not support the device or precision, or a transformer
            does not let its kernel be chosen.
    """
    transformers = list(Target.of(pipeline).transformers.values())
    if kernel == "auto":
        is_usable = all(
            isinstance(part, OWN_CLASSES) and _missing_for_flash(part, "flash") is None for part in transformers
        )
        kernel = "flash" if is_usable else "sdpa"
        if not is_usable:
            return kernel
    for part in transformers:
        missing = _missing_for_flash(part, kernel) if kernel in PACKAGES else None
        if missing is not None:
            raise ModelError(f"--attention {kernel}: {missing}; leave it out to use torch's own attention")
        if not isinstance(part, ModelMixin):
            raise ModelError(f"--attention {kernel}: {type(part).__name__} does not let its attention be chosen")
        try:
            with _without_warning():
                part.set_attention_backend(BACKENDS.get(kernel, kernel))
        except (RuntimeError, ValueError, ImportError) as error:
            raise ModelError(f"--attention {kernel}: {first_line(error)}") from error
    return kernel


@contextmanager
def _without_warning() -> Iterator[None]:
    """Drops what diffusers says of every choice, its own default included: that choosing is experimental."""
    logger = logging.getLogger(ModelMixin.__module__)
    logger.addFilter(_is_no_warning)
    try:
        yield
    finally:
        logger.removeFilter(_is_no_warning)


def _is_no_warning(record: logging.LogRecord) -> bool:
    return "experimental feature" not in record.getMessage()


def attention_in_use() -> str:
    """Name of the kernel in use: its name on the command line, or else diffusers' name."""
    active = attention_backend().value
    return next((name for name, backend in BACKENDS.items() if backend == active), active)


def _missing_for_flash(transformer: nn.Module, kernel: str) -> str | None:
    """Reason in words why a FlashAttention kernel cannot be used for a transformer; None if it can."""
    package = PACKAGES[kernel]
    if find_spec(package) is None:
        return f"the package {package} is not installed"
    first = next(transformer.parameters())
    if first.device.type != "cuda":
        return f"FlashAttention needs a CUDA device, but the model is on {first.device.type}"
    if first.dtype not in (torch.float16, torch.bfloat16):
        return f"FlashAttention needs --dtype bfloat16 or float16, not {str(first.dtype).removeprefix('torch.')}"
    return None
