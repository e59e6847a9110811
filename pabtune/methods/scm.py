"""cache-dit's presets (https://github.com/vipshop/cache-dit 1.5): fixed masks, from slow to ultra (`planning/scm.py`).

Held is the summed residual of the blocks, as DBCache holds it; here of all of them, as the first block makes no decision.
"""

from collections.abc import Sequence
from typing import Any, Literal

from pabtune.methods.held_runs import held_policy
from pabtune.methods.method import Knob, Recordings
from pabtune.planning.scm import FEWEST_STEPS, TEMPLATES, computed_steps
from pabtune.records.errors import ModelError
from pabtune.records.policies import Policy
from pabtune.runtime.targets import Target


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
