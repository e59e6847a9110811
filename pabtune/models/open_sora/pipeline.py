"""Open-Sora 1.2 as a diffusers pipeline: text, or text and a first image, to video.

Source: Open-Sora 1.2 (https://github.com/hpcaitech/Open-Sora, v1.2). As there, height, width and number of frames are held
in bfloat16, which moves the schedule and the positions a little: 854 counts as 856.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from diffusers.image_processor import PipelineImageInput
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from diffusers.video_processor import VideoProcessor
from torch import Tensor
from transformers import PreTrainedTokenizerBase, T5EncoderModel

from pabtune.libraries.diffusers_internals import execution_device
from pabtune.models.open_sora.vae import CHUNK_FRAMES, AutoencoderKLOpenSora
from pabtune.models.stdit3 import STDiT3Transformer3DModel
from pabtune.records.errors import PromptError

TRAINING_AREA = 512**2
"""Pixels per frame at which the schedule is not shifted."""

LATENTS_PER_CHUNK = 5


def schedule_shift(num_frames: int, height: int, width: int) -> float:
    """Shift of the rectified-flow schedule: more noise for larger and longer videos. Computed in bfloat16.

    Args:
        num_frames: frames of the video; those beyond a multiple of 17 do not count.
        height: height in pixels.
        width: width in pixels.
    """
    rows, columns, frames = torch.tensor([height, width, num_frames], dtype=torch.bfloat16)
    length_factor = (frames // CHUNK_FRAMES * LATENTS_PER_CHUNK).sqrt() if num_frames >= CHUNK_FRAMES else 1.0
    return float((rows * columns / TRAINING_AREA).sqrt() * length_factor)


class OpenSoraPipelineOutput(BaseOutput):
    """Output of `OpenSoraPipeline`: `frames`, (B, F, H, W, 3) in 0..1, a tensor (B, F, 3, H, W), or lists of images."""

    frames: np.ndarray | Tensor | list[Any]


class OpenSoraPipeline(DiffusionPipeline):
    """Text-to-video and image-to-video pipeline of Open-Sora 1.2."""

    model_cpu_offload_seq = "text_encoder->transformer->vae"
    _callback_tensor_inputs = ("latents",)

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        text_encoder: T5EncoderModel,
        vae: AutoencoderKLOpenSora,
        transformer: STDiT3Transformer3DModel,
        scheduler: FlowMatchEulerDiscreteScheduler,
    ) -> None:
        super().__init__()
        self.register_modules(
            tokenizer=tokenizer, text_encoder=text_encoder, vae=vae, transformer=transformer, scheduler=scheduler
        )
        self.video_processor = VideoProcessor(vae_scale_factor=vae.spatial_factor)

    @torch.no_grad()
    def __call__(  # noqa: PLR0913, PLR0917, the arguments that diffusers' pipelines have
        self,
        prompt: str | list[str],
        image: PipelineImageInput | None = None,
        num_frames: int = 51,
        height: int = 480,
        width: int = 854,
        num_inference_steps: int = 30,
        guidance_scale: float = 7.0,
        fps: float = 24.0,
        aesthetic_score: float | None = 6.5,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        output_type: str = "np",
        callback_on_step_end: Callable[[Any, int, Tensor, dict[str, Any]], dict[str, Any]] | None = None,
        return_dict: bool = True,
    ) -> OpenSoraPipelineOutput | tuple[np.ndarray | Tensor]:
        """Generates one video per prompt.

        Args:
            prompt: one or several.
            image: first frame of every video.
            num_frames: frames per video; 51 are 2 seconds.
            height: height in pixels, rounded down to a multiple of 8.
            width: width in pixels, rounded down to a multiple of 8.
            num_inference_steps: denoising steps.
            guidance_scale: strength of classifier-free guidance; 1 = off.
            fps: frames per second of the video.
            aesthetic_score: score appended to the prompt, as in training; None = nothing is appended.
            generator: source of noise; one for all, or one per prompt.
            latents: initial noise (B, C, latent frames, H/8, W/8), used instead of the generator.
            output_type: `np`, `pt`, `pil`, or `latent`.
            callback_on_step_end: called as `callback(pipeline, step, timestep, {"latents": …})`.
            return_dict: return an `OpenSoraPipelineOutput` instead of a tuple.

        Raises:
            PromptError: the list of prompts is empty.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        if not prompts:
            raise PromptError("at least one prompt is needed, but the list is empty")
        device, factor = execution_device(self), self.vae.spatial_factor
        text, mask = self.encode_prompt(prompts, aesthetic_score)
        frames = self.vae.latent_frames(num_frames)
        shape = (len(prompts), self.transformer.config.in_channels, frames, height // factor, width // factor)
        if latents is None:
            latents = randn_tensor(shape, generator=generator, device=device, dtype=torch.float32)
        image_latents = None if image is None else self._first_latents(image, shape, generator)
        self.scheduler.set_shift(schedule_shift(num_frames, height, width))
        # Uniform levels; the scheduler shifts them, once.
        self.scheduler.set_timesteps(sigmas=np.linspace(1, 1 / num_inference_steps, num_inference_steps), device=device)
        sizes = {"fps": fps, "height": height, "width": width}
        conditions = {
            "encoder_attention_mask": mask,
            **{name: torch.full((1,), value, device=device).bfloat16() for name, value in sizes.items()},
        }
        latents = self._denoise(latents, image_latents, text, conditions, guidance_scale, callback_on_step_end)
        frames_out = latents if output_type == "latent" else self._decode(latents, num_frames, output_type)
        self.maybe_free_model_hooks()
        return OpenSoraPipelineOutput(frames=frames_out) if return_dict else (frames_out,)

    def encode_prompt(self, prompts: list[str], aesthetic_score: float | None = None) -> tuple[Tensor, Tensor]:
        """Text features (B, L, E) and attention mask (B, L), 1 for tokens and 0 for padding.

        Args:
            prompts: the texts; they are lower-cased, as in training.
            aesthetic_score: score appended to each prompt; None = nothing is appended.
        """
        suffix = "" if aesthetic_score is None else f" aesthetic score: {aesthetic_score:.1f}."
        tokens = self.tokenizer(
            [f"{prompt.strip().lower()}{suffix}" for prompt in prompts],
            max_length=self.transformer.config.model_max_length,
            padding="max_length",
            truncation=True,
            return_tensors="pt",
        ).to(execution_device(self))
        text = self.text_encoder(tokens.input_ids, attention_mask=tokens.attention_mask)[0]
        return text, tokens.attention_mask

    def _denoise(
        self,
        latents: Tensor,
        image_latents: Tensor | None,
        text: Tensor,
        conditions: dict[str, Tensor],
        guidance_scale: float,
        on_step_end: Callable[[Any, int, Tensor, dict[str, Any]], dict[str, Any]] | None,
    ) -> Tensor:
        noisy = None
        if image_latents is not None:
            noisy = torch.arange(latents.shape[2], device=latents.device)[None] >= image_latents.shape[2]
            conditions = {**conditions, "x_mask": noisy}
            latents = torch.cat([image_latents, latents[:, :, image_latents.shape[2] :]], dim=2)
        timesteps, sigmas = self.scheduler.timesteps, self.scheduler.sigmas.tolist()
        with self.progress_bar(total=len(timesteps)) as progress:
            for step, timestep in enumerate(timesteps):
                context = {"step_index": step, "num_inference_steps": len(timesteps), "sigma": sigmas[step]}
                velocity = self._guided_velocity(context, latents, timestep, text, conditions, guidance_scale)
                # The transformer predicts data - noise, the scheduler expects noise - data.
                previous = self.scheduler.step(-velocity, timestep, latents, return_dict=False)[0]
                latents = previous if noisy is None else torch.where(noisy[:, None, :, None, None], previous, latents)
                if on_step_end is not None:
                    latents = (on_step_end(self, step, timestep, {"latents": latents}) or {}).get("latents", latents)
                progress.update()
        return latents

    def _guided_velocity(
        self,
        context: dict[str, Any],
        latents: Tensor,
        timestep: Tensor,
        text: Tensor,
        conditions: dict[str, Tensor],
        guidance_scale: float,
    ) -> Tensor:
        """Guided velocity from one call with both branches; the unconditional one gets the null caption and the same mask."""
        branch, count = "cond", len(latents)
        if guidance_scale != 1.0:
            branch = "cond+uncond"
            null = self.transformer.y_embedder.y_embedding.to(text)[: text.shape[1]].expand_as(text)
            latents, text = torch.cat([latents, latents]), torch.cat([text, null])
            conditions = {**conditions, "encoder_attention_mask": conditions["encoder_attention_mask"].repeat(2, 1)}
        with self.transformer.cache_context(branch, **context):
            velocity = self.transformer(
                hidden_states=latents,
                timestep=timestep.expand(len(latents)),
                encoder_hidden_states=text,
                return_dict=False,
                **conditions,
            )[0][:, : latents.shape[1]]
        if guidance_scale == 1.0:
            return velocity
        cond, uncond = velocity.split(count)
        return uncond + guidance_scale * (cond - uncond)

    def _first_latents(
        self,
        image: PipelineImageInput,
        shape: tuple[int, ...],
        generator: torch.Generator | list[torch.Generator] | None,
    ) -> Tensor:
        """Latents of an image as a video of one frame, (B, C, 1, H, W)."""
        factor = self.vae.spatial_factor
        pixels = self.video_processor.preprocess(image, height=shape[3] * factor, width=shape[4] * factor)
        pixels = pixels[:, :, None].to(execution_device(self), self.vae.dtype)
        generators = generator if isinstance(generator, list) else [generator] * shape[0]
        return torch.cat([self.vae.encode(pixels, each).latent_dist.sample(each).float() for each in generators])

    def _decode(self, latents: Tensor, num_frames: int, output_type: str) -> Any:
        frames = self.vae.decode(latents.to(self.vae.dtype), num_frames, return_dict=False)[0]
        return self.video_processor.postprocess_video(frames.float(), output_type=output_type)
