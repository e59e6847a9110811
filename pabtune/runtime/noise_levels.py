"""The noise levels of a scheduler of diffusers, and the steps of timesteps."""

from typing import Any

import torch

TIMESTEP_TOLERANCE = 0.005
"""Relative; 16 bits round timesteps by less, and neighbouring timesteps are farther apart."""


def noise_levels(scheduler: Any) -> tuple[float, ...]:
    """Noise level of every step, 1 = noise.

    Sigma for flow matching; timestep over training timesteps for diffusion; for sigmas without a bound (EDM), the fraction
    of noise in what is denoised: sigma / (1 + sigma).
    """
    timesteps = torch.as_tensor(scheduler.timesteps).tolist()
    training = scheduler.config.get("num_train_timesteps", 1000)
    sigmas = getattr(scheduler, "sigmas", None)
    if sigmas is not None and len(sigmas) >= len(timesteps):
        levels = torch.as_tensor(sigmas).tolist()[: len(timesteps)]
        if max(levels) <= 1.0:
            return tuple(round(sigma, 6) for sigma in levels)
        if not 2 < max(timesteps) <= training or min(timesteps) < 0:
            return tuple(round(sigma / (1 + sigma), 6) for sigma in levels)
    return tuple(round(timestep / training, 6) for timestep in timesteps)


def step_of_timestep(timestep: torch.Tensor, timesteps: torch.Tensor) -> int | None:
    """The earliest step that one of the samples, frames or tokens is at; None if none is at any.

    Frames that are given stay at a small timestep of their own; some models take timesteps on another scale.

    Args:
        timestep: of a call of the transformer, any shape.
        timesteps: of the scheduler, (steps,).
    """
    levels = timestep.float().flatten().unique()
    distance = (timesteps.to(levels)[:, None] - levels).abs()
    is_at = distance <= TIMESTEP_TOLERANCE * levels.abs()
    nearest = distance.argmin(dim=0)[is_at.any(dim=0)]
    return int(nearest.min()) if len(nearest) else None
