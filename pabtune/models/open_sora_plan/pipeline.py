"""Open-Sora-Plan v1.1 as a diffusers pipeline: text to video.

Source: Open-Sora-Plan v1.1 (https://github.com/PKU-YuanGroup/Open-Sora-Plan). As there, the negative prompt is cut to
the length of the prompt. Prompts of different lengths are masked, so that each gives the result that it gives alone; the
reference lets the model attend to the padding of a batch.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline, SchedulerMixin
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from diffusers.video_processor import VideoProcessor
from torch import Tensor
from transformers import PreTrainedTokenizerBase, T5EncoderModel

from pabtune.libraries.diffusers_internals import execution_device
from pabtune.models.open_sora_plan.transformer import LatteT2VTransformer3DModel
from pabtune.models.open_sora_plan.vae import AutoencoderKLOpenSoraPlan
from pabtune.records.errors import PromptError

TEXT_TOKENS = 300
"""Length of the longest prompt, in tokens."""


class OpenSoraPlanPipelineOutput(BaseOutput):
    """Output of `OpenSoraPlanPipeline`: `frames`, (B, F, H, W, 3) in 0..1, a tensor (B, F, 3, H, W), or lists of images."""

    frames: np.ndarray | Tensor | list[Any]


class OpenSoraPlanPipeline(DiffusionPipeline):
    """Text-to-video pipeline of Open-Sora-Plan v1.1."""

    model_cpu_offload_seq = "text_encoder->transformer->vae"
    _callback_tensor_inputs = ("latents",)

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        text_encoder: T5EncoderModel,
        vae: AutoencoderKLOpenSoraPlan,
        transformer: LatteT2VTransformer3DModel,
        scheduler: SchedulerMixin,
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
        negative_prompt: str = "",
        num_frames: int = 65,
        height: int = 512,
        width: int = 512,
        num_inference_steps: int = 150,
        guidance_scale: float = 7.5,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        output_type: str = "np",
        callback_on_step_end: Callable[[Any, int, Tensor, dict[str, Any]], dict[str, Any]] | None = None,
        return_dict: bool = True,
    ) -> OpenSoraPlanPipelineOutput | tuple[np.ndarray | Tensor]:
        """Generates one video per prompt.

        Args:
            prompt: one or several.
            negative_prompt: what guidance leads away from.
            num_frames: frames per video; the model was trained for 65 and 221.
            height: height in pixels, rounded down to a multiple of 16.
            width: width in pixels, rounded down to a multiple of 16.
            num_inference_steps: denoising steps; some schedulers call the model more often, PNDM 9 times.
            guidance_scale: strength of classifier-free guidance; 1 = off.
            generator: source of noise; one for all, or one per prompt.
            latents: initial noise (B, C, latent frames, H/8, W/8), used instead of the generator.
            output_type: `np`, `pt`, `pil`, or `latent`.
            callback_on_step_end: called as `callback(pipeline, step, timestep, {"latents": …})`.
            return_dict: return an `OpenSoraPlanPipelineOutput` instead of a tuple.

        Raises:
            PromptError: the list of prompts is empty.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        if not prompts:
            raise PromptError("at least one prompt is needed, but the list is empty")
        device, factor = execution_device(self), self.vae.spatial_factor
        text, mask = self.encode_prompt(prompts, negative_prompt if guidance_scale != 1.0 else None)
        patch = self.transformer.config.patch_size
        rows, columns = (size // factor // patch * patch for size in (height, width))
        shape = (
            len(prompts), self.transformer.config.in_channels, self.vae.latent_frames(num_frames), rows, columns,
        )  # fmt: skip
        if latents is None:
            latents = randn_tensor(shape, generator=generator, device=device, dtype=torch.float32)
        self.scheduler.set_timesteps(num_inference_steps, device=device)
        latents = latents.to(device) * self.scheduler.init_noise_sigma
        latents = self._denoise(latents, text, mask, guidance_scale, callback_on_step_end)
        frames = latents if output_type == "latent" else self._decode(latents, num_frames, output_type)
        self.maybe_free_model_hooks()
        return OpenSoraPlanPipelineOutput(frames=frames) if return_dict else (frames,)

    def encode_prompt(self, prompts: list[str], negative_prompt: str | None) -> tuple[Tensor, Tensor | None]:
        """Text features (B or 2·B, L, E), L the length of the longest prompt, and a mask (same, L) if lengths differ.

        Args:
            prompts: the texts; they are lower-cased, as in training.
            negative_prompt: text of the second half of the batch; None = no second half.
        """
        tokens = self._tokens(prompts)
        text = self.text_encoder(tokens.input_ids, attention_mask=tokens.attention_mask)[0]
        lengths = tokens.attention_mask.sum(1)
        longest = int(lengths.max())
        mask = tokens.attention_mask[:, :longest] if int(lengths.min()) < longest else None
        text = text[:, :longest]
        if negative_prompt is not None:
            negative = self._tokens([negative_prompt])
            other = self.text_encoder(negative.input_ids, attention_mask=negative.attention_mask)[0]
            text = torch.cat([text, other[:, :longest].expand_as(text)])
            mask = None if mask is None else mask.repeat(2, 1)
        return text, mask

    def _tokens(self, texts: list[str]) -> Any:
        return self.tokenizer(
            [text.strip().lower() for text in texts],
            max_length=TEXT_TOKENS,
            padding="max_length",
            truncation=True,
            return_tensors="pt",
        ).to(execution_device(self))

    def _denoise(
        self,
        latents: Tensor,
        text: Tensor,
        mask: Tensor | None,
        guidance_scale: float,
        on_step_end: Callable[[Any, int, Tensor, dict[str, Any]], dict[str, Any]] | None,
    ) -> Tensor:
        timesteps, is_guided = self.scheduler.timesteps, guidance_scale != 1.0
        with self.progress_bar(total=len(timesteps)) as progress:
            for step, timestep in enumerate(timesteps):
                model_input = self.scheduler.scale_model_input(
                    torch.cat([latents] * 2) if is_guided else latents, timestep
                )
                branch = "cond+uncond" if is_guided else "cond"
                with self.transformer.cache_context(branch, step_index=step, num_inference_steps=len(timesteps)):
                    noise = self.transformer(
                        hidden_states=model_input,
                        timestep=timestep.expand(len(model_input)),
                        encoder_hidden_states=text,
                        encoder_attention_mask=mask,
                        return_dict=False,
                    )[0][:, : latents.shape[1]].float()
                if is_guided:
                    cond, uncond = noise.chunk(2)
                    noise = uncond + guidance_scale * (cond - uncond)
                latents = self.scheduler.step(noise, timestep, latents, return_dict=False)[0]
                if on_step_end is not None:
                    latents = (on_step_end(self, step, timestep, {"latents": latents}) or {}).get("latents", latents)
                progress.update()
        return latents

    def _decode(self, latents: Tensor, num_frames: int, output_type: str) -> Any:
        scaled = (latents / self.vae.config.scaling_factor).to(self.vae.dtype)
        frames = self.vae.decode(scaled, return_dict=False)[0][:, :, :num_frames]
        return self.video_processor.postprocess_video(frames.float(), output_type=output_type)
