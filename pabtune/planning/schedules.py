"""The noise schedule of a run, for planning."""

from dataclasses import dataclass
from itertools import pairwise

from pabtune.records.errors import PolicyError
from pabtune.records.policies import MadeFor


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseSchedule:
    """Number of denoising steps and, where known, the noise level of each, from 1 (noise) falling to 0 (clean)."""

    steps: int
    sigmas: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise PolicyError(f"a run needs at least 1 step, but has {self.steps}")
        if self.sigmas is not None and len(self.sigmas) != self.steps:
            raise PolicyError(f"a run of {self.steps} steps needs as many noise levels, but has {len(self.sigmas)}")


def same_noise_levels(first: tuple[float, ...], second: tuple[float, ...]) -> bool:
    """Whether two schedules agree to 1e-4 at every step."""
    return len(first) == len(second) and all(abs(a - b) < 1e-4 for a, b in zip(first, second, strict=True))


def same_schedule(made_for: MadeFor, schedule: NoiseSchedule) -> bool:
    """Whether a run has the steps, and as far as both are known the noise levels, that something was made for."""
    if made_for.known_steps not in (None, schedule.steps):
        return False
    if made_for.sigmas is None or schedule.sigmas is None:
        return True
    return same_noise_levels(made_for.sigmas, schedule.sigmas)


def carry_window(window: tuple[int, int], made_for: tuple[float, ...], run: tuple[float, ...]) -> tuple[int, int]:
    """The steps of `run` with the noise levels that the window [start, stop) had in `made_for`.

    A window's edge lies halfway between the noise levels of the steps on both sides of it.

    Raises:
        PolicyError: noise levels of the two do not fall.
    """
    if any(later > earlier + 1e-6 for levels in (made_for, run) for earlier, later in pairwise(levels)):
        raise PolicyError(
            "noise levels that rise from step to step cannot be carried to another schedule; search for it"
        )
    edges = [float("inf"), *((high + low) / 2 for high, low in pairwise(made_for)), float("-inf")]
    high, low = edges[window[0]], edges[min(window[1], len(made_for))]
    inside = [step for step, sigma in enumerate(run) if low < sigma < high]
    return (inside[0], inside[-1] + 1) if inside else (0, 0)
