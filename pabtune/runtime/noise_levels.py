"""Noise levels of a diffusers scheduler, and the step that a timestep belongs to."""

from typing import Any

import torch

TIMESTEP_TOLERANCE = 0.005
"""Relative tolerance: above the rounding error of 16-bit timesteps, below the distance of neighbouring ones."""


def noise_levels(scheduler: Any) -> tuple[float, ...]:
    """Noise level of every step: 1 = noise, 0 = clean.

    It is sigma for flow matching, timestep over training timesteps for diffusion, and sigma / (1 + sigma), the fraction of
    noise in the input, for unbounded sigmas (EDM).
    """
    timesteps = torch.as_tensor(scheduler.timesteps).tolist()
    training = scheduler.config.get("num_train_timesteps", 1000)
    sigmas = getattr(scheduler, "sigmas", None)
    if sigmas is not None and len(sigmas) >= len(timesteps):
        levels = torch.as_tensor(sigmas).tolist()[: len(timesteps)]
        if max(levels) <= 1.0:
            is_inverted = scheduler.config.get("invert_sigmas", False)  # Mochi's: 0 = noise
            return tuple(round(1 - sigma if is_inverted else sigma, 6) for sigma in levels)
        if not 2 < max(timesteps) <= training or min(timesteps) < 0:
            return tuple(round(sigma / (1 + sigma), 6) for sigma in levels)
    return tuple(round(timestep / training, 6) for timestep in timesteps)


def step_of_timestep(timestep: torch.Tensor, timesteps: torch.Tensor) -> int | None:
    """Earliest step whose timestep occurs among those of a transformer call; None if none does.

    Conditioning frames may have a small timestep of their own, and some models take timesteps on another scale.

    Args:
        timestep: timesteps of the call, of any shape (per sample, frame or token).
        timesteps: timesteps of the scheduler, (steps,).
    """
    levels = timestep.float().flatten().unique()
    distance = (timesteps.to(levels)[:, None] - levels).abs()
    is_at = distance <= TIMESTEP_TOLERANCE * levels.abs()
    nearest = distance.argmin(dim=0)[is_at.any(dim=0)]
    return int(nearest.min()) if len(nearest) else None
