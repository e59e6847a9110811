"""Training of the embedded model: rectified flow on rendered clips, resumable at any step.

The recipe that learns on two CPU cores: sine-cosine positions at full scale, zero-initialised modulation and output
(adaLN-zero, DiT, https://arxiv.org/abs/2212.09748), normed queries and keys, logit-normal timesteps (Stable Diffusion 3,
https://arxiv.org/abs/2403.03206), Muon for the matrices of the blocks and AdamW for the rest, and an exponential moving
average of the weights. The learning rate is constant and falls to zero over the last part, so a run can be extended.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from pabtune.models.shapes.captions import VOCABULARY, describe, loosen
from pabtune.models.shapes.pipeline import with_clock
from pabtune.models.shapes.text import WordEncoder
from pabtune.models.shapes.world import (
    COLOR_CHANNELS,
    FRAME_SIZE,
    FRAMES,
    FRAMES_PER_SECOND,
    Scene,
    frame_clock,
    render,
    scenes,
)
from pabtune.models.stdit3 import STDiT3Transformer3DModel

CAPTION_CHANNELS = 64
LONGEST_CAPTION = 24
EXTRA_ROTATING = 5
"""Extra weight of rotating shapes, the hardest to draw, against 1 for each motion when scenes are sampled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """Hyperparameters of a training run. `seed` determines scenes, captions, noise and initial weights."""

    steps: int = 10000
    batch_size: int = 16
    learning_rate: float = 2e-3
    warmup_steps: int = 200
    decay_share: float = 0.1
    null_caption_share: float = 0.1
    timestep_logit_mean: float = 1.0
    average_decay: float = 0.999
    checkpoint_every: int = 250
    seed: int = 0


class Trainee(nn.Module):
    """The two networks that are trained jointly: text encoder and transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.text_encoder = WordEncoder(VOCABULARY, CAPTION_CHANNELS, LONGEST_CAPTION)
        self.transformer = STDiT3Transformer3DModel(
            depth=3,
            hidden_size=96,
            num_heads=3,
            patch_size=(1, 4, 4),
            in_channels=COLOR_CHANNELS + 1,
            pred_sigma=False,
            caption_channels=CAPTION_CHANNELS,
            model_max_length=LONGEST_CAPTION,
            input_sq_size=FRAME_SIZE,
        )
        initialize(self.transformer)


def initialize(transformer: STDiT3Transformer3DModel) -> None:
    """Initializes the weights so that every block is the identity and the output is zero (adaLN-zero)."""
    for module in transformer.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    for layer in (transformer.t_block[1], transformer.final_layer.linear):
        nn.init.zeros_(layer.weight)
    for block in (*transformer.spatial_blocks, *transformer.temporal_blocks):
        nn.init.zeros_(block.scale_shift_table)
        nn.init.zeros_(block.cross_attn.proj.weight)
    nn.init.zeros_(transformer.final_layer.scale_shift_table)


def training_scenes() -> dict[str, list[Scene]]:
    """All scenes of the training split, grouped by motion."""
    by_motion: dict[str, list[Scene]] = {}
    for scene in scenes("train"):
        by_motion.setdefault(scene.motion, []).append(scene)
    return by_motion


def sample_batch(
    by_motion: Mapping[str, list[Scene]], size: int, single_frames: bool, rng: np.random.Generator
) -> tuple[Tensor, Tensor, list[str]]:
    """Clips (B, 3, F, H, W) in -1..1, times of their frames (B, F), and captions.

    Args:
        by_motion: scenes to sample from, by motion.
        size: number of clips.
        single_frames: sample F times as many clips of a single frame instead, which is the same amount of work.
        rng: source of randomness.
    """
    clips, times, captions = [], [], []
    motions = [*by_motion, *["rotating"] * EXTRA_ROTATING]
    clock = frame_clock()
    for _ in range(size * FRAMES if single_frames else size):
        pool = by_motion[motions[rng.integers(len(motions))]]
        scene = pool[rng.integers(len(pool))]
        frame = rng.integers(FRAMES)
        frames = slice(frame, frame + 1) if single_frames else slice(None)
        clips.append(render(scene, rng, frames))
        times.append(clock[frames])
        captions.append(describe(loosen(scene, rng), rng))
    pixels = torch.from_numpy(np.stack(clips)).permute(0, 4, 1, 2, 3)
    return pixels.float() / 127.5 - 1, torch.from_numpy(np.stack(times)), captions


def optimizers(trainee: Trainee, learning_rate: float) -> list[torch.optim.Optimizer]:
    """Muon (https://kellerjordan.github.io/posts/muon) for matrices inside blocks, AdamW for everything else."""
    matrices, others = [], []
    for name, parameter in trainee.named_parameters():
        if parameter.requires_grad:
            in_block = "_blocks." in name and name.endswith("weight") and parameter.ndim == 2
            (matrices if in_block else others).append(parameter)
    return [
        torch.optim.Muon(matrices, lr=learning_rate, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=learning_rate, weight_decay=0.0, betas=(0.9, 0.99)),
    ]


def learning_rate_factor(step: int, config: TrainingConfig) -> float:
    """Learning-rate factor of a step: warm-up, then 1, then linear decay to 0 over the last `decay_share` of the run."""
    remaining = (config.steps - step) / (config.steps * config.decay_share)
    return min(1.0, (step + 1) / config.warmup_steps, max(0.0, remaining))


def flow_loss(trainee: Trainee, clips: Tensor, times: Tensor, captions: list[str], config: TrainingConfig) -> Tensor:
    """Mean squared error of the velocity `data - noise` at random noise levels, for clips (B, 3, F, H, W)."""
    batch = clips.shape[0]
    # One level from each of `batch` equally likely intervals: the same distribution, less noise in the gradient.
    quantile = (torch.randperm(batch) + torch.rand(batch)) / batch
    level = torch.sigmoid(torch.special.ndtri(quantile.clamp(1e-4, 1 - 1e-4)) + config.timestep_logit_mean)
    noise = torch.randn_like(clips)
    mix = level[:, None, None, None, None]
    text, mask = trainee.text_encoder(captions)
    is_null = torch.rand(batch) < config.null_caption_share
    text = torch.where(is_null[:, None, None], trainee.transformer.y_embedder.y_embedding, text)
    velocity = trainee.transformer(
        with_clock((1 - mix) * clips + mix * noise, times),
        level * 1000,
        text,
        mask,
        torch.full((batch,), float(FRAMES_PER_SECOND)),
    ).sample
    return (velocity[:, :COLOR_CHANNELS] - (clips - noise)).square().mean()


def train(folder: Path, config: TrainingConfig, log: Callable[[int, Mapping[str, float]], None]) -> Trainee:
    """Trains the embedded model and returns the averaged weights.

    Args:
        folder: existing folder for the checkpoint; training resumes from one that is there.
        config: hyperparameters.
        log: called with each step and its scalars.
    """
    torch.manual_seed(config.seed)
    trainee = Trainee()
    average = copy.deepcopy(trainee).requires_grad_(False)
    steppers = optimizers(trainee, config.learning_rate)
    checkpoint = folder / "checkpoint.pt"
    start = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        start = state["step"]
        trainee.load_state_dict(state["trainee"])
        average.load_state_dict(state["average"])
        for stepper, stepper_state in zip(steppers, state["steppers"], strict=True):
            stepper.load_state_dict(stepper_state)
    by_motion = training_scenes()
    for step in range(start, config.steps):
        rng = np.random.default_rng((config.seed, step))
        # Single frames teach appearance, and position over time, at an eighth of the cost of clips.
        is_single = step % 3 != 0
        torch.manual_seed(config.seed * 1_000_003 + step)
        factor = learning_rate_factor(step, config)
        for stepper in steppers:
            for group in stepper.param_groups:
                group["lr"] = config.learning_rate * factor
        loss = flow_loss(trainee, *sample_batch(by_motion, config.batch_size, is_single, rng), config)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(trainee.parameters(), 1.0)
        for stepper in steppers:
            stepper.step()
            stepper.zero_grad()
        decay = min(config.average_decay, (step + 1) / (step + 10))
        for mean, parameter in zip(average.parameters(), trainee.parameters(), strict=True):
            mean.lerp_(parameter.detach(), 1 - decay)
        name = "loss_frames" if is_single else "loss"
        log(step, {name: loss.item(), "gradient_norm": norm.item(), "learning_rate": config.learning_rate * factor})
        if (step + 1) % config.checkpoint_every == 0 or step + 1 == config.steps:
            state = {
                "step": step + 1,
                "trainee": trainee.state_dict(),
                "average": average.state_dict(),
                "steppers": [stepper.state_dict() for stepper in steppers],
            }
            partial = checkpoint.with_suffix(".partial")
            torch.save(state, partial)
            partial.replace(checkpoint)
    return average
