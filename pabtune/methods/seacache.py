"""SeaCache (https://arxiv.org/abs/2602.18993): compute when what the latents hold of the video has changed enough.

Latents are filtered by the gain that a Wiener filter has for a signal with a spectrum of |f|^-3 at the step's noise level,
so that noise does not count; relative L1 changes from step to step are added up, and while the sum is below a threshold the
blocks' summed residual serves, extrapolated along a line from the last two computed steps. The first and the last step
compute, and no more than two in a row are served. diffusers' `SeaCache` does the same; the paper filters the modulated
input of the first block instead.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, Literal

import torch
from torch import Tensor

from pabtune.methods.differences import misfit_of
from pabtune.methods.method import Knob, Recordings
from pabtune.records.errors import ModelError
from pabtune.runtime.deciders import COMPUTE, Decision, DynamicPolicy, Moment
from pabtune.runtime.targets import Target

EXPONENT = 3.0
"""Of the power spectrum of clean videos."""

TINY = 1e-16
"""Keeps divisions finite."""

LEAST_NOISE = 1e-6
"""Of levels 0 and 1, which have no filter."""


def filtered(latents: Tensor, sigma: float) -> Tensor:
    """Latents without what is noise at a noise level.

    Args:
        latents: (B, C, F, H, W).
        sigma: noise level, 0..1.
    """
    noise = max(LEAST_NOISE, min(1.0 - LEAST_NOISE, sigma))
    signal, gain = 1.0 - noise, torch.ones((), device=latents.device)
    for dim in (2, 3, 4):
        frequencies = torch.fft.fftfreq(latents.shape[dim], device=latents.device).abs()
        power = 1.0 / (frequencies**EXPONENT + TINY)
        along = signal * power / (signal**2 * power + noise**2 + TINY)
        gain = gain * along.reshape([-1 if each == dim else 1 for each in range(latents.ndim)])
    spectrum = torch.fft.fftn(latents.float(), dim=(2, 3, 4))
    return torch.fft.ifftn(spectrum * (gain / gain.mean()), dim=(2, 3, 4)).real.to(latents.dtype)


class SeaCacheDecider:
    """SeaCache's rule for one branch.

    Args:
        threshold: up to which changes add up without computing.
        most: most steps that are served in a row.
        order: of the extrapolation, 0 or 1.
    """

    def __init__(self, threshold: float, most: float, order: int) -> None:
        self._threshold, self._most, self._order = threshold, most, order
        self._sum, self._served = 0.0, 0
        self._before: Tensor | None = None

    def decide(self, moment: Moment, seen: Tensor) -> Decision:
        """Adds up changes of the filtered latents (see `Decider`).

        Raises:
            ModelError: the latents are not of a video, or the scheduler's noise levels are unknown.
        """
        if seen.ndim != 5 or moment.schedule.sigmas is None:
            raise ModelError("SeaCache filters latents of shape (B, C, frames, height, width) by their noise level")
        now = filtered(seen, moment.schedule.sigmas[moment.step])
        before, self._before = self._before, now
        if before is None or moment.is_last or self._served >= self._most:
            return COMPUTE
        changes = (now.float() - before.float()).abs().flatten(1).mean(1) / (
            before.float().abs().flatten(1).mean(1) + TINY
        )
        self._sum += float(changes.mean())
        if self._sum >= self._threshold:
            return COMPUTE
        self._served += 1
        if self._order == 0 or len(moment.kept) < 2:
            return Decision(computes=False)
        earlier, latest = moment.kept[-2:]
        return Decision(computes=False, factors=((moment.step - latest) / (latest - earlier),))

    def computed(self, moment: Moment, watched: Tensor | None) -> None:
        """Begins a new sum (see `Decider`)."""
        self._sum, self._served = 0.0, 0


@dataclass(frozen=True)
class SeaCache:
    """SeaCache, by its threshold.

    Attributes:
        most: most steps that are served in a row; None = any number.
        order: of the extrapolation, 0 or 1.
    """

    most: int | None = 2
    order: int = 1

    name = "seacache"
    knob = Knob(name="threshold", low=0.0, high=2.0, says="sum of changes of the filtered latents")
    settings = (0.05, 0.1, 0.15, 0.25, 0.35, 0.5)
    needs: Literal["nothing", "recordings"] = "nothing"

    def misfit(self, model: Target) -> str | None:
        """Whether there are no blocks."""
        return misfit_of(model, self.at(0.0, None, 1))

    def calibrate(self, recordings: Recordings, settings: Sequence[float]) -> Any:
        """None: nothing is measured."""
        return None

    def at(self, setting: float, calibration: Any, steps: int) -> DynamicPolicy:
        """The policy of a threshold."""
        most = inf if self.most is None else self.most
        return DynamicPolicy(
            name=f"{self.name}:{setting:g}",
            steps=steps,
            decider=lambda *_: SeaCacheDecider(setting, most, self.order),
            point="call",
            history=1 + self.order,
        )
