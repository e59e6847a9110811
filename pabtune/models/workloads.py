"""Workloads: one video on a published model at full size, without weights, for counting what it computes.

Knows shapes, schedules and parts of each model; knows nothing of policies or costs.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch
from diffusers import (
    AutoencoderKLTemporalDecoder,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    LatteTransformer3DModel,
    PNDMScheduler,
)
from torch import Tensor, nn
from transformers import T5Config, T5EncoderModel

from pabtune.models.open_sora import AutoencoderKLOpenSora
from pabtune.models.open_sora.pipeline import schedule_shift
from pabtune.models.open_sora_plan import AutoencoderKLOpenSoraPlan, LatteT2VTransformer3DModel
from pabtune.models.open_sora_plan.vae import DECODING
from pabtune.models.registry import LATTE_CONFIG, SHAPES_FOLDER
from pabtune.models.shapes.pipeline import DEFAULT_STEPS
from pabtune.models.shapes.world import FRAME_SIZE, FRAMES
from pabtune.models.stdit3 import STDiT3Transformer3DModel
from pabtune.planning.layouts import AXES, Video, busiest_share
from pabtune.planning.schedules import NoiseSchedule
from pabtune.records.errors import ModelError
from pabtune.records.layouts import Axis, ParallelLayout

BRANCHES = 2
"""Number of guidance branches; both go through the transformer in one call."""

T5_XXL = {
    "d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64, "feed_forward_proj": "gated-gelu",
}  # fmt: skip

IMAGE_VAE = {
    "down_block_types": ("DownEncoderBlock2D",) * 4, "block_out_channels": (128, 256, 512, 512), "latent_channels": 4,
}  # fmt: skip
"""Configuration of the Stable Diffusion VAE."""

LATTE_FRAMES_AT_ONCE = 14
"""Frames per call of Latte's temporal decoder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """One video of a published model.

    Attributes:
        transformer: the network, on the meta device.
        arguments: arguments of one transformer call, with both guidance branches.
        schedule: noise schedule of the run.
        frames: T, frames of the latents.
        tokens: S, tokens per frame.
        width: D, width of a token.
        heads: attention heads.
        padding_flops: FLOPs per step of projecting the padding of the text, which `arguments` leaves out.
        parts: what runs once per video beside the transformer (text encoder, decoder), as calls on the meta device.
        output_bytes: bytes gathered per call if frames are split: the output of the transformer.
        patch_bytes: bytes gathered per call if the tokens of a frame are split: the patches of the last layer.
        axes: axes that can be split over GPUs.
        sees_scores: whether the paper's counter included the scores of fused attention for this model.
    """

    transformer: nn.Module
    arguments: Mapping[str, Any]
    schedule: NoiseSchedule
    frames: int
    tokens: int
    width: int
    heads: int
    padding_flops: int
    parts: Mapping[str, Callable[[], object]]
    output_bytes: int
    patch_bytes: int
    axes: tuple[Axis, ...]
    sees_scores: bool

    def video(self, branches: int = 1) -> Video:
        """Sizes of what GPUs exchange.

        Args:
            branches: number of parts that the guidance branches are split into.
        """
        per_token = self.activation_bytes // branches // (self.frames * self.tokens)
        return Video(frames=self.frames, tokens=self.tokens, bytes_per_token=per_token, heads=self.heads)

    def busiest_share(self, layout: ParallelLayout) -> float:
        """Fraction of the transformer's work done by the busiest GPU (padding included)."""
        return busiest_share(layout, self.frames if layout.axis == "frames" else self.tokens)

    @property
    def activation_bytes(self) -> int:
        """Bytes of one hidden state in 16 bits, both branches: M in the formulas of the paper."""
        return BRANCHES * self.frames * self.tokens * self.width * 2


def build_workload(model: str, size: tuple[int, int, int], steps: int, text_tokens: int | None = None) -> Workload:
    """Builds the workload of one video on a published model.

    Args:
        model: `open-sora-1.2`, `latte`, `open-sora-plan-1.1` or `shapes`.
        size: frames, height and width in pixels.
        steps: denoising steps.
        text_tokens: length of the prompt; None = the longest that the model takes.

    Raises:
        ModelError: another model, a text longer than the model takes, or a size or number of steps that it cannot have.
    """
    if model not in BUILDERS:
        raise ModelError(f"no workload is known for {model!r}; known: {', '.join(BUILDERS)}; or give a profile")
    least, (frames, height, width) = LEAST_SIDE[model], size
    if not (1 <= frames <= MOST_FRAMES and all(least <= side <= LARGEST_SIDE for side in (height, width))):
        raise ModelError(
            f"{model} takes 1 to {MOST_FRAMES} frames of {least}x{least} to {LARGEST_SIDE}x{LARGEST_SIDE} pixels, not "
            f"{frames} of {height}x{width}"
        )
    fewest_steps, most_steps = STEPS_OF_SCHEDULERS.get(model, (1, steps))
    if not fewest_steps <= steps <= most_steps:
        raise ModelError(f"the scheduler of {model} takes {fewest_steps} to {most_steps} steps, not {steps}")
    builder, most = BUILDERS[model]
    tokens = most if text_tokens is None else text_tokens
    if not 1 <= tokens <= most:
        raise ModelError(f"{model} takes 1 to {most} text tokens, not {tokens}")
    return builder(size, steps, tokens, most)


def _meta(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.empty(shape, device="meta", dtype=dtype)


def _on_meta(module: Callable[[], nn.Module]) -> nn.Module:
    with torch.device("meta"):
        return module().bfloat16().eval()


def _encode_text(tokens: int, texts: int) -> Callable[[], object]:
    def encode() -> object:
        encoder = _on_meta(lambda: T5EncoderModel(T5Config(**T5_XXL)))
        return encoder(input_ids=_meta(texts, tokens, dtype=torch.long))

    return encode


def _padding_flops(padding: int, text_width: int, width: int) -> int:
    """FLOPs of the two-layer projection of padding tokens, which attention does not see."""
    return 2 * BRANCHES * padding * (text_width * width + width * width)


def _flow(steps: int, shift: float) -> NoiseSchedule:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(sigmas=np.linspace(1, 1 / steps, steps))
    return NoiseSchedule(steps=steps, sigmas=tuple(round(float(sigma), 6) for sigma in scheduler.sigmas[:steps]))


def _diffusion(scheduler: DDIMScheduler | PNDMScheduler, steps: int) -> NoiseSchedule:
    """Schedule of a diffusion scheduler, one step per model call; some schedulers make more calls than steps."""
    scheduler.set_timesteps(steps)
    levels = tuple(float(timestep) / scheduler.config["num_train_timesteps"] for timestep in scheduler.timesteps)
    return NoiseSchedule(steps=len(levels), sigmas=levels)


def _open_sora(size: tuple[int, int, int], steps: int, text_tokens: int, most: int) -> Workload:
    frames, height, width = size
    transformer = _on_meta(STDiT3Transformer3DModel)
    vae = _on_meta(AutoencoderKLOpenSora)
    config = transformer.config
    latents = (4, vae.latent_frames(frames), height // 8, width // 8)
    rows, columns = (-(-side // patch) for side, patch in zip(latents[2:], config.patch_size[1:], strict=True))
    sizes = {name: _meta(1) for name in ("height", "width", "fps")}

    def decode() -> object:
        return vae.decode(_meta(1, *latents), frames)

    return Workload(
        transformer=transformer,
        arguments={
            "hidden_states": _meta(BRANCHES, *latents),
            "timestep": _meta(BRANCHES),
            "encoder_hidden_states": _meta(BRANCHES, text_tokens, config.caption_channels),
            **sizes,
        },
        schedule=_flow(steps, schedule_shift(frames, height, width)),
        frames=latents[1],
        tokens=rows * columns,
        width=config.hidden_size,
        heads=config.num_heads,
        padding_flops=_padding_flops(most - text_tokens, config.caption_channels, config.hidden_size),
        parts={"text_encoder": _encode_text(most, texts=1), "vae_decoder": decode},
        # The network returns 32 bits.
        output_bytes=BRANCHES * transformer.out_channels * latents[1] * latents[2] * latents[3] * 4,
        patch_bytes=BRANCHES * transformer.out_channels * latents[1] * rows * columns * 4 * 2,
        axes=AXES,
        sees_scores=False,
    )


def _shapes(size: tuple[int, int, int], steps: int, text_tokens: int, most: int) -> Workload:
    """The embedded model, which works on pixels and has no VAE."""
    transformer = _on_meta(
        lambda: STDiT3Transformer3DModel.from_config(
            STDiT3Transformer3DModel.load_config(SHAPES_FOLDER, subfolder="transformer")
        )
    )
    scheduler: Any = FlowMatchEulerDiscreteScheduler.load_config(SHAPES_FOLDER, subfolder="scheduler")
    config = transformer.config
    rows, columns = (-(-side // patch) for side, patch in zip(size[1:], config.patch_size[1:], strict=True))
    patches = math.prod(config.patch_size) * transformer.out_channels
    return Workload(
        transformer=transformer,
        arguments={
            "hidden_states": _meta(BRANCHES, config.in_channels, *size),
            "timestep": _meta(BRANCHES),
            "encoder_hidden_states": _meta(BRANCHES, text_tokens, config.caption_channels),
        },
        schedule=_flow(steps, scheduler["shift"]),
        frames=size[0],
        tokens=rows * columns,
        width=config.hidden_size,
        heads=config.num_heads,
        padding_flops=_padding_flops(most - text_tokens, config.caption_channels, config.hidden_size),
        parts={},
        output_bytes=BRANCHES * transformer.out_channels * math.prod(size) * 4,
        patch_bytes=BRANCHES * size[0] * rows * columns * patches * 2,
        axes=AXES,
        sees_scores=True,
    )


def _latte(size: tuple[int, int, int], steps: int, text_tokens: int, most: int) -> Workload:
    frames, height, width = size
    transformer = _on_meta(lambda: LatteTransformer3DModel(**{**LATTE_CONFIG, "video_length": frames}))
    scheduler = DDIMScheduler(timestep_spacing="leading")
    latents = (frames, height // 8, width // 8)

    def decode() -> object:
        decoder = _on_meta(lambda: AutoencoderKLTemporalDecoder(**IMAGE_VAE, layers_per_block=2)).to("meta")
        for first in range(0, frames, LATTE_FRAMES_AT_ONCE):
            count = min(LATTE_FRAMES_AT_ONCE, frames - first)
            decoder.decode(_meta(count, 4, *latents[1:]), num_frames=count)

    return _two_dimensional(transformer, latents, _diffusion(scheduler, steps), text_tokens, most, decode)


def _open_sora_plan(size: tuple[int, int, int], steps: int, text_tokens: int, most: int) -> Workload:
    frames, height, width = size
    latents = ((frames - 1) // 4 + 1, height // 8, width // 8)
    transformer = _on_meta(lambda: LatteT2VTransformer3DModel(sample_size=latents[1:], video_length=latents[0]))

    def decode() -> object:
        # The reference tiles even what fits into one tile; the figures of the paper show that it did not cut frames.
        decoder = _on_meta(AutoencoderKLOpenSoraPlan)
        sides = (
            [min(DECODING.size, side - start) for start in range(0, side, DECODING.stride)] for side in latents[1:]
        )
        for rows, columns in product(*sides):
            decoder.decode(_meta(1, 4, latents[0], rows, columns))

    return _two_dimensional(transformer, latents, _diffusion(PNDMScheduler(), steps), text_tokens, most, decode)


def _two_dimensional(
    transformer: nn.Module,
    latents: tuple[int, int, int],
    schedule: NoiseSchedule,
    text_tokens: int,
    most: int,
    decode: Callable[[], object],
) -> Workload:
    """Workload of Latte and similar models, which patchify each frame.

    T5-XXL encodes the prompt and the negative prompt; both are cut to the length of the prompt.
    """
    config: Any = transformer.config
    inner = config.num_attention_heads * config.attention_head_dim
    return Workload(
        transformer=transformer,
        arguments={
            "hidden_states": _meta(BRANCHES, config.in_channels, *latents),
            "timestep": _meta(BRANCHES, dtype=torch.long),
            "encoder_hidden_states": _meta(BRANCHES, text_tokens, config.caption_channels),
        },
        schedule=schedule,
        frames=latents[0],
        tokens=latents[1] // config.patch_size * (latents[2] // config.patch_size),
        width=inner,
        heads=config.num_attention_heads,
        padding_flops=0,
        parts={"text_encoder": _encode_text(most, texts=2), "vae_decoder": decode},
        output_bytes=BRANCHES * config.out_channels * latents[0] * latents[1] * latents[2] * 2,
        patch_bytes=0,
        axes=("frames",),
        sees_scores=True,
    )


BUILDERS: Mapping[str, tuple[Callable[[tuple[int, int, int], int, int, int], Workload], int]] = {
    "open-sora-1.2": (_open_sora, 300),
    "shapes": (_shapes, 24),
    "latte": (_latte, 120),
    "open-sora-plan-1.1": (_open_sora_plan, 300),
}
"""Builder of each workload, and the most text tokens that its model takes."""

LEAST_SIDE: Mapping[str, int] = {"open-sora-1.2": 8, "shapes": 1, "latte": 16, "open-sora-plan-1.1": 16}
"""Pixels of the smallest patch that each model computes a token of."""

STEPS_OF_SCHEDULERS: Mapping[str, tuple[int, int]] = {"latte": (1, 1000), "open-sora-plan-1.1": (4, 1000)}
"""Fewest and most steps, where not every number will do: DDIM has 1000 training timesteps to choose from; PNDM as well, and
begins with four steps of another kind."""

MOST_FRAMES, LARGEST_SIDE = 1024, 8192
"""Counting takes longer for longer videos and larger tilings: half a minute at these."""

PAPER_RUNS: Mapping[str, tuple[tuple[int, int, int], int]] = {
    "open-sora-1.2": ((51, 480, 854), 30),
    "latte": ((16, 512, 512), 50),
    "open-sora-plan-1.1": ((65, 512, 512), 150),
}
"""Size (frames, height, width) and denoising steps of the paper's videos."""

USUAL_RUNS: Mapping[str, tuple[tuple[int, int, int], int]] = {
    "shapes": ((FRAMES, FRAME_SIZE, FRAME_SIZE), DEFAULT_STEPS), **PAPER_RUNS,
}  # fmt: skip
"""Default size and steps of each workload."""
