"""Runs in which all blocks together are held between computed steps, judged by their final latents."""

from collections.abc import Sequence

from torch import Tensor

from pabtune.methods.method import Recordings
from pabtune.records.policies import Policy
from pabtune.records.prompts import Prompt
from pabtune.records.rules import Rule
from pabtune.runtime.engine import broadcast
from pabtune.runtime.targets import Target
from pabtune.tuning.generation import generate
from pabtune.tuning.trajectories import CALLBACK, LatentsWatch, tells_latents


def held_policy(name: str, computed: Sequence[int], steps: int) -> Policy:
    """The policy that holds the summed residual of all blocks between computed steps.

    Args:
        name: of the method.
        computed: the steps that compute.
        steps: of the run.
    """
    rules = (Rule(kind="stack", compute=tuple(computed)),) if len(computed) < steps else ()
    return Policy(name=f"{name}:{len(computed)}", rules=rules)


def cannot_hold(target: Target) -> str | None:
    """Why the blocks of a model cannot be held so, or its latents not be seen; None = they can."""
    if not any(site.block for site in target.sites):
        return "it has no blocks that are known"
    if target.pipeline is None or not tells_latents(target.pipeline):
        return f"its pipeline has no {CALLBACK}, which tells the final latents"
    return None


class HeldRuns:
    """Runs of a few prompts, held against their full run.

    Args:
        recordings: the model and its settings.
        prompts: one batch.
    """

    def __init__(self, recordings: Recordings, prompts: Sequence[Prompt]) -> None:
        self._recordings, self._prompts = recordings, prompts
        self._full = self._final_latents(range(recordings.settings.steps))
        recordings.bytes += self._full.nbytes

    def relative_error(self, computed: Sequence[int]) -> float:
        """Mean over prompts of the L1 difference of the final latents over those of the full run."""
        difference = (self._final_latents(computed) - self._full).flatten(1).abs().sum(dim=1)
        return float((difference / self._full.flatten(1).abs().sum(dim=1)).mean())

    def squared_error(self, computed: Sequence[int]) -> float:
        """Mean squared difference of the final latents."""
        return float((self._final_latents(computed) - self._full).square().mean())

    def _final_latents(self, computed: Sequence[int]) -> Tensor:
        """Latents after the last step, (prompts, …)."""
        run, watch = self._recordings, LatentsWatch()
        policy = held_policy("trial", computed, run.settings.steps)
        with broadcast(run.pipeline, policy, catalog=run.catalog):
            generate(run.pipeline, self._prompts, watch.settings(run.settings))
        return watch.after[-1]
