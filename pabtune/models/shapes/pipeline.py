"""The embedded model as a diffusers pipeline: text to a short clip of one moving shape, in pixels."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from pabtune.libraries.diffusers_internals import execution_device
from pabtune.models.shapes.captions import parse
from pabtune.models.shapes.text import WordEncoder
from pabtune.models.shapes.world import COLOR_CHANNELS, FRAME_SIZE, FRAMES, FRAMES_PER_SECOND, frame_clock
from pabtune.models.stdit3 import STDiT3Transformer3DModel
from pabtune.records.errors import PromptError

DEFAULT_STEPS = 30
DEFAULT_GUIDANCE_SCALE = 4.0


def with_clock(clips: Tensor, times: Tensor) -> Tensor:
    """Clips (B, 3, F, H, W) with the times of their frames, (B, F) or (F,), appended as a fourth channel."""
    batch, _, frames, height, width = clips.shape
    clock = times.to(clips).expand(batch, frames)[:, None, :, None, None]
    return torch.cat([clips, clock.expand(-1, -1, -1, height, width)], dim=1)


@dataclass(frozen=True, slots=True)
class DenoisingStep:
    """One step of the denoising loop.

    Attributes:
        step: index of the step.
        steps: number of steps.
        sigma: noise level, 1 = noise.
        timestep: the scheduler's timestep, a scalar tensor.
    """

    step: int
    steps: int
    sigma: float
    timestep: Tensor

    @property
    def context(self) -> dict[str, int | float]:
        """Keyword arguments for `cache_context`."""
        return {"step_index": self.step, "num_inference_steps": self.steps, "sigma": self.sigma}


class ShapesPipelineOutput(BaseOutput):
    """Output of `ShapesPipeline`: `frames`, (B, F, H, W, 3) in 0..1, or a tensor (B, F, 3, H, W)."""

    frames: np.ndarray | Tensor


class ShapesPipeline(DiffusionPipeline):
    """Text-to-video pipeline for captions like `a red circle moves slowly to the left on a black background`."""

    model_cpu_offload_seq = "text_encoder->transformer"
    _callback_tensor_inputs = ("latents",)

    def __init__(
        self,
        text_encoder: WordEncoder,
        transformer: STDiT3Transformer3DModel,
        scheduler: FlowMatchEulerDiscreteScheduler,
    ) -> None:
        super().__init__()
        self.register_modules(text_encoder=text_encoder, transformer=transformer, scheduler=scheduler)

    @torch.no_grad()
    def __call__(  # noqa: PLR0913, PLR0917, the arguments that diffusers' pipelines have
        self,
        prompt: str | list[str],
        num_inference_steps: int = DEFAULT_STEPS,
        guidance_scale: float = DEFAULT_GUIDANCE_SCALE,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        batched_guidance: bool = True,
        output_type: str = "np",
        callback_on_step_end: Callable[[Any, int, Tensor, dict[str, Any]], dict[str, Any]] | None = None,
        return_dict: bool = True,
    ) -> ShapesPipelineOutput | tuple[np.ndarray | Tensor]:
        """Generates one clip per prompt.

        Args:
            prompt: one caption or several.
            num_inference_steps: denoising steps.
            guidance_scale: strength of classifier-free guidance; 1 = off.
            generator: source of the initial noise; one for all, or one per prompt.
            latents: initial noise (B, 3, F, H, W), used instead of the generator.
            batched_guidance: compute both guidance branches in one call of the transformer instead of two.
            output_type: `np` or `pt`.
            callback_on_step_end: called as `callback(pipeline, step, timestep, {"latents": …})`.
            return_dict: return a `ShapesPipelineOutput` instead of a tuple.

        Raises:
            PromptError: a prompt cannot be understood, or the list of prompts is empty.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        if not prompts:
            raise PromptError("at least one prompt is needed, but the list is empty")
        for each in prompts:
            parse(each)
        shape = (len(prompts), COLOR_CHANNELS, FRAMES, FRAME_SIZE, FRAME_SIZE)
        device = execution_device(self)
        if latents is None:
            latents = randn_tensor(shape, generator=generator, device=device, dtype=torch.float32)
        text, mask = self.text_encoder(prompts)
        # Uniform levels; the scheduler shifts them, once.
        self.scheduler.set_timesteps(sigmas=np.linspace(1, 1 / num_inference_steps, num_inference_steps), device=device)
        sigmas = self.scheduler.sigmas.tolist()

        with self.progress_bar(total=num_inference_steps) as progress:
            for step, timestep in enumerate(self.scheduler.timesteps):
                current = DenoisingStep(step, num_inference_steps, sigmas[step], timestep)
                guided = self._guided_velocity(current, latents, text, mask, guidance_scale, batched_guidance)
                # The transformer predicts data - noise, the scheduler expects noise - data.
                latents = self.scheduler.step(-guided, timestep, latents, return_dict=False)[0]
                if callback_on_step_end is not None:
                    tensors = callback_on_step_end(self, step, timestep, {"latents": latents})
                    latents = (tensors or {}).get("latents", latents)
                progress.update()

        frames = (latents / 2 + 0.5).clamp(0, 1).permute(0, 2, 1, 3, 4)
        if output_type == "np":
            frames = frames.permute(0, 1, 3, 4, 2).float().cpu().numpy()
        self.maybe_free_model_hooks()
        return ShapesPipelineOutput(frames=frames) if return_dict else (frames,)

    def _guided_velocity(
        self, step: DenoisingStep, latents: Tensor, text: Tensor, mask: Tensor, guidance_scale: float, batched: bool
    ) -> Tensor:
        if guidance_scale == 1.0:
            return self._velocity("cond", step, latents, text, mask)
        null = self.transformer.y_embedder.y_embedding.to(text).expand_as(text)
        if batched:
            both = (torch.cat([latents, latents]), torch.cat([text, null]), torch.cat([mask, mask]))
            cond, uncond = self._velocity("cond+uncond", step, *both).chunk(2)
        else:
            cond = self._velocity("cond", step, latents, text, mask)
            uncond = self._velocity("uncond", step, latents, null, mask)
        return uncond + guidance_scale * (cond - uncond)

    def _velocity(self, branch: str, step: DenoisingStep, latents: Tensor, text: Tensor, mask: Tensor) -> Tensor:
        dtype = self.transformer.dtype
        size = latents.new_full((len(latents),), float(FRAME_SIZE))
        with self.transformer.cache_context(branch, **step.context):
            return self.transformer(
                hidden_states=with_clock(latents, torch.from_numpy(frame_clock())).to(dtype),
                timestep=step.timestep.expand(len(latents)),
                encoder_hidden_states=text.to(dtype),
                encoder_attention_mask=mask,
                fps=torch.full_like(size, FRAMES_PER_SECOND),
                height=size,
                width=size,
                return_dict=False,
            )[0][:, :COLOR_CHANNELS]
