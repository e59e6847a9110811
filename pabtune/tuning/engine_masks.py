"""Masks of steps that an engine can run: for each number of computed steps the one that is closest to the full run.

The surrogate of whole calls ranks them, with the payloads that the engine has: holding the blocks of a call and holding the
call itself move the latents alike. What it ranks first runs as the engine would run it.

Knows what engines hold; knows nothing of their files.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from diffusers import DiffusionPipeline

from pabtune.catalog import CATALOG, Catalog
from pabtune.engines.blocks import BlockList, held_layers
from pabtune.engines.engine import Engine
from pabtune.engines.step_masks import line_factors
from pabtune.planning.scm import TEMPLATES, preset_mask
from pabtune.planning.surrogate import Factors, Surrogate, best_schedule, objective_of
from pabtune.planning.units import blocks_of
from pabtune.quality.fidelity import psnr_db
from pabtune.records.errors import ModelError
from pabtune.records.policies import Policy
from pabtune.records.schedules import Schedule
from pabtune.records.sites import Site
from pabtune.runtime.engine import broadcast
from pabtune.runtime.targets import Target
from pabtune.tuning.drafts import Draft
from pabtune.tuning.generation import Generation, Settings, generate
from pabtune.tuning.trajectories import Trajectories

FIRSTS: Mapping[str, tuple[int, ...]] = {"hold": (1, 2, 3), "line": (3, 4, 5)}
"""Numbers of steps that a mask begins with, by payload; each is tried. A line that begins early is worse than it is ranked."""

ITERATIONS = 1500
"""Moves of the annealing, which has fewer good places to find than one with factors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineMasks:
    """What an engine holds in the steps of a mask (see `Unit`).

    Attributes:
        engine: the engine.
        layers: of the blocks that it holds; None = all.
        catalog: what is known of transformer classes.
    """

    engine: Engine
    layers: tuple[int, ...] | None
    catalog: Catalog = CATALOG

    @classmethod
    def of(cls, engine: Engine, sites: Sequence[Site], catalog: Catalog = CATALOG) -> "EngineMasks":
        """What an engine holds of a model.

        Args:
            engine: that takes masks, or presets.
            sites: of the model.
            catalog: what is known of transformer classes.

        Raises:
            ModelError: it has no blocks that are known, or nothing is left of them.
        """
        lists: dict[tuple[str, str], list[int]] = defaultdict(list)
        for block in blocks_of(sites):
            lists[block.transformer, block.path.rpartition(".")[0]].append(block.layer)
        if not lists:
            raise ModelError(f"{engine.name} holds blocks, but the model has none that are known")
        block_lists = [BlockList(path=path, first=min(own), count=len(own)) for (_, path), own in lists.items()]
        layers = held_layers(engine, block_lists)
        if not layers:
            raise ModelError(f"{engine.name} holds all blocks but the first, and the model has no other")
        return cls(engine=engine, layers=None if engine.held == "all" else layers, catalog=catalog)

    def drafts(self, surrogates: Sequence[Surrogate], counts: Sequence[int], seed: int) -> dict[int, list[Draft]]:
        """Masks by the number of steps that compute, the best by the first surrogate first (see `Unit`)."""
        surrogate = surrogates[0]
        if self.engine.held == "preset":
            return self._presets(surrogate)
        return {count: self._of_count(surrogate, count, seed) for count in counts if count < surrogate.steps}

    def fit(
        self,
        pipeline: DiffusionPipeline,
        target: Target,
        runs: Sequence[Trajectories],
        settings: Settings,
        draft: Draft,
    ) -> tuple[Schedule, list[Generation]]:
        """Runs a mask as the engine would (see `Unit`)."""
        unknown = {"psnr_db": 0.0, "tail_psnr_db": 0.0}
        schedule = Schedule(
            kind="stack", layers=self.layers, computed=draft.computed, factors=draft.factors or (), **unknown
        )
        policy, generations, psnrs = Policy(name="mask", rules=(schedule.rule,)), [], []
        with broadcast(pipeline, policy, catalog=self.catalog, any_steps=True):
            for run in runs:
                generations.append(generate(pipeline, run.prompts, settings))
                psnrs += [
                    psnr_db(video, reference)
                    for video, reference in zip(generations[-1].videos, run.generation.videos, strict=True)
                ]
        return schedule.measured(psnrs), generations

    def refine(
        self, pipeline: DiffusionPipeline, runs: Sequence[Trajectories], settings: Settings, schedule: Schedule
    ) -> Schedule:
        """The mask as it is: the engine says what held steps are made from (see `Unit`)."""
        return schedule

    def _of_count(self, surrogate: Surrogate, count: int, seed: int) -> list[Draft]:
        """Masks with so many computed steps: the best for each payload and number of steps to begin with."""
        steps, found = surrogate.steps, dict[tuple[tuple[int, ...], Factors], Draft]()
        for payload in ("hold", "line") if self.engine.takes_line else ("hold",):
            factors: Callable[[Sequence[int]], Factors] = (
                partial(line_factors, steps=steps, takeovers=surrogate.takeovers)
                if payload == "line"
                else partial(_hold_factors, steps=steps)
            )
            for first in FIRSTS[payload]:
                if first + 1 <= count:
                    computed = best_schedule(
                        surrogate, count, first, seed=seed, iterations=ITERATIONS, factors=factors
                    )  # fmt: skip
                    draft = _draft(surrogate, computed, factors(computed))
                    found[draft.computed, draft.factors or ()] = draft
        return sorted(found.values(), key=lambda draft: draft.objective)

    def _presets(self, surrogate: Surrogate) -> dict[int, list[Draft]]:
        """The masks that the engine knows by name, held and along lines."""
        found: dict[int, list[Draft]] = defaultdict(list)
        for preset in TEMPLATES:
            mask = preset_mask(preset, surrogate.steps)
            computed = tuple(step for step, computes in enumerate(mask) if computes)
            drafts = {_draft(surrogate, computed, _hold_factors(computed, surrogate.steps))}
            if self.engine.takes_line:
                drafts.add(_draft(surrogate, computed, line_factors(computed, surrogate.steps, surrogate.takeovers)))
            found[len(computed)] += [each for each in drafts if each not in found[len(computed)]]
        return {
            count: sorted(drafts, key=lambda draft: draft.objective)
            for count, drafts in sorted(found.items(), reverse=True)
        }


def _hold_factors(computed: Sequence[int], steps: int) -> Factors:
    """No factors: the last output is held."""
    return ((),) * steps


def _draft(surrogate: Surrogate, computed: Sequence[int], factors: Factors) -> Draft:
    """A mask with its payload, ranked."""
    objective = objective_of(surrogate.errors(computed, factors))
    return Draft(computed=tuple(computed), factors=factors, objective=objective)
