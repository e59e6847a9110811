"""cache-dit's presets (steps_mask in https://github.com/vipshop/cache-dit 1.5): fixed masks, from slow to ultra.

Templates of 28 steps say how many steps in turn compute and hold; for more steps they are stretched, for fewer cut at their
end. The last step computes. Held is the summed residual of the blocks, as DBCache holds it; here of all of them, as the first
block makes no decision.
"""

from collections.abc import Mapping, Sequence
from itertools import chain, zip_longest
from typing import Any, Literal

from pabtune.methods.held_runs import held_policy
from pabtune.methods.method import Knob, Recordings
from pabtune.records.errors import ModelError
from pabtune.records.policies import Policy
from pabtune.runtime.targets import Target

TEMPLATE_STEPS, FEWEST_STEPS = 28, 16
"""Steps of the templates, and the fewest that they are cut to: masks for distilled models are other ones."""

TEMPLATES: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "slow": ((8, 3, 3, 2, 1, 1), (1, 2, 2, 2, 3)),
    "medium": ((6, 2, 2, 2, 2, 1), (1, 3, 3, 3, 3)),
    "fast": ((6, 1, 1, 1, 1, 1), (1, 3, 4, 5, 4)),
    "ultra": ((4, 1, 1, 1, 1), (2, 5, 6, 7)),
}
"""Numbers of steps that compute, and that are held after each of them."""


def computed_steps(preset: str, steps: int) -> tuple[int, ...]:
    """The steps that compute.

    Args:
        preset: `slow`, `medium`, `fast` or `ultra`.
        steps: of the run, 16 or more.
    """
    computed, held = (list(bins) for bins in TEMPLATES[preset])
    if steps > TEMPLATE_STEPS:
        _stretch(computed, held, steps)
    _cut(computed, held, steps)
    runs = chain.from_iterable(zip_longest(computed, held, fillvalue=0))
    mask = [index % 2 == 0 for index, run in enumerate(runs) for _ in range(run)]
    return tuple(step for step, computes in enumerate(mask) if computes or step == steps - 1)


def _stretch(computed: list[int], held: list[int], steps: int) -> None:
    """Adds half of the ratio of steps to each bin in turn, at least 1, until they suffice."""
    growth = steps / TEMPLATE_STEPS * 0.5
    more = [[max(int(size * growth), 1) for size in bins] for bins in (computed, held)]
    while True:
        for index in range(min(len(computed), len(held))):
            for bins, added in zip((computed, held), more, strict=True):
                bins[index] += added[index]
                if sum(computed) + sum(held) >= steps:
                    return
        computed[-1] += 1
        if sum(computed) + sum(held) >= steps:
            return


def _cut(computed: list[int], held: list[int], steps: int) -> None:
    """Takes steps from the last bins in turn, those that are held first."""
    while True:
        for bins in (held, computed):
            if sum(computed) + sum(held) <= steps:
                return
            if bins:
                bins[-1] -= 1
                if bins[-1] == 0:
                    bins.pop()


class SCM:
    """cache-dit's presets, by their number."""

    name = "cache-dit-scm"
    knob = Knob(name="preset", low=1, high=4, kind=int, says="1 slow, 2 medium, 3 fast, 4 ultra")
    settings = (1, 2, 3, 4)
    needs: Literal["nothing", "recordings"] = "nothing"

    def misfit(self, model: Target) -> str | None:
        """Whether there are no blocks."""
        return None if any(site.block for site in model.sites) else "its card names no blocks"

    def calibrate(self, recordings: Recordings, settings: Sequence[float]) -> Any:
        """None: nothing is measured.

        Raises:
            ModelError: the run has fewer steps than the templates are cut to.
        """
        if recordings.settings.steps < FEWEST_STEPS:
            raise ModelError(f"its masks are for {FEWEST_STEPS} steps and more")

    def at(self, setting: float, calibration: Any, steps: int) -> Policy:
        """The policy of a preset."""
        preset = list(TEMPLATES)[round(setting) - 1]
        return held_policy(self.name, computed_steps(preset, steps), steps)
