"""Trying a policy out, cheaply first: few prompts, and more while it is still promising."""

from collections.abc import Sequence

import numpy as np
from diffusers import DiffusionPipeline
from scipy import stats

from pabtune.catalog import CATALOG, Catalog
from pabtune.planning.costs.compute import compute_fraction
from pabtune.planning.costs.measured import Measured, parallel_seconds
from pabtune.planning.costs.memory import held_bytes
from pabtune.planning.costs.profiled import bytes_of_sites
from pabtune.planning.masks import ComputeMask, resolve
from pabtune.planning.presets import PRESETS
from pabtune.planning.units import units_of
from pabtune.quality.budget import Budget, drop_statistics, find_score
from pabtune.quality.fidelity import missing_db, psnr_db
from pabtune.records.interconnects import INTERCONNECTS, Interconnect
from pabtune.records.layouts import ONE_GPU, ParallelLayout
from pabtune.records.policies import Policy
from pabtune.records.profiles import Profile
from pabtune.records.prompts import Prompt
from pabtune.records.sites import Site
from pabtune.records.trials import Measurement, Outcome
from pabtune.runtime.engine import broadcast
from pabtune.tuning.generation import Settings, Video, batches, generate
from pabtune.tuning.references import References
from pabtune.tuning.space import Space

RUNG_SHARES = (0.25, 0.5, 1.0)
"""Shares of the prompts after which a candidate must still be promising."""

DOUBT = 0.05
"""One-sided error with which a candidate is given up early."""


class TrialRunner:
    """Tries policies out on fixed prompts.

    Args:
        pipeline: the model.
        profile: of that model; gives predicted times.
        space: of policies.
        prompts: of the search.
        budget: on the score.
        settings: how videos are generated.
        references: of the unaccelerated videos.
        memory: bytes that a candidate may hold at most; None = any.
        layout: how GPUs will share a video.
        interconnect: between these GPUs.
        catalog: what is known of transformer classes.
    """

    def __init__(  # noqa: PLR0913, PLR0917, most are needed and have no default
        self,
        pipeline: DiffusionPipeline,
        profile: Profile,
        space: Space,
        prompts: Sequence[Prompt],
        budget: Budget,
        settings: Settings,
        references: References,
        memory: int | None = None,
        layout: ParallelLayout = ONE_GPU,
        interconnect: Interconnect = INTERCONNECTS["nvlink"],
        catalog: Catalog = CATALOG,
    ) -> None:
        self._memory, self._layout, self._interconnect, self._catalog = memory, layout, interconnect, catalog
        self._pipeline, self._profile, self._space = pipeline, profile, space
        self._budget, self._settings, self._references = budget, settings, references
        self._batches = interleaved(prompts, settings.batch_size)
        self._count = len(prompts)
        self._baseline_scores: dict[Prompt, float] = {}
        self._floor: dict[Prompt, float] = {}

    def set_floor(self, policy: Policy) -> float:
        """Makes a policy's PSNR, prompt by prompt, the floor for all candidates; returns its mean in dB."""
        for batch in self._batches:
            videos, _ = self._generate(policy, batch)
            for prompt, video, reference in zip(batch, videos, self._references.videos(batch), strict=True):
                self._floor[prompt] = psnr_db(video, reference)
        return float(np.mean(list(self._floor.values())))

    def predicted_time(self, policy: Policy) -> float:
        """Predicted time in the transformer over that of the full run, both on as many GPUs as will share a video."""
        measured = Measured.of(self._profile, self._layout.gpus, self._catalog)
        schedule = self._space.schedule()
        seconds, full_seconds = (
            parallel_seconds(
                resolve(each, self._sites(each), schedule).inside_blocks(), measured, self._layout, self._interconnect
            )
            for each in (policy, PRESETS["none"])
        )
        return seconds / full_seconds

    def over_memory(self, policy: Policy) -> float | None:
        """Held bytes of a batch over the limit less 1; None without a limit."""
        if self._memory is None:
            return None
        mask = self._mask(policy)
        sizes = bytes_of_sites(self._profile, mask.sites, policy.store)
        held = held_bytes(mask, sizes, policy.store, self._profile.call.per_step).max() * self._settings.batch_size
        return float(held) / self._memory - 1

    def _sites(self, policy: Policy) -> tuple[Site, ...]:
        return (*self._profile.sites, *units_of(policy, self._profile.sites))

    def _mask(self, policy: Policy) -> ComputeMask:
        mask = resolve(policy, self._sites(policy), self._space.schedule())
        return mask.where_called(self._profile.arrays["seconds"] > 0)

    def try_out(self, policy: Policy, time_to_beat: float | None = None) -> Outcome:
        """Tries a policy on more and more prompts, until all are done or it is not promising any more.

        Args:
            policy: the candidate.
            time_to_beat: predicted time of the best candidate so far; a slower one is given up after the first rung.
        """
        over_memory, predicted = self.over_memory(policy), self.predicted_time(policy)
        profile = self._profile
        fraction = compute_fraction(
            self._mask(policy).inside_blocks(), profile.site_flops, profile.total_flops, profile.call.samples
        )
        if over_memory is not None and over_memory > 0:
            return Outcome(
                status="over memory", predicted_time=predicted, compute_fraction=fraction, over_memory=over_memory
            )
        drops: list[float] = []
        psnrs: list[float] = []
        held: list[tuple[float, float]] = []
        seconds = 0.0
        rungs = [max(1, round(share * self._count)) for share in RUNG_SHARES]
        for batch in self._batches:
            videos, spent = self._generate(policy, batch)
            seconds += spent
            for prompt, video, reference in zip(batch, videos, self._references.videos(batch), strict=True):
                score = find_score(self._budget.score)
                if prompt not in self._baseline_scores:
                    self._baseline_scores[prompt] = score(reference, prompt.prompt)
                drops.append(self._baseline_scores[prompt] - score(video, prompt.prompt))
                psnrs.append(psnr_db(video, reference))
                held.append((self._floor.get(prompt, psnrs[-1]), psnrs[-1]))
            if len(drops) >= rungs[0]:
                rungs = [rung for rung in rungs if rung > len(drops)]
                if rungs and not self._is_promising(
                    drops, [floor - psnr for floor, psnr in held], predicted, time_to_beat
                ):
                    break
        statistics = drop_statistics(drops)
        is_complete = len(drops) == self._count
        return Outcome(
            status="complete" if is_complete else "stopped early",
            predicted_time=predicted,
            compute_fraction=fraction,
            measured=Measurement(
                prompts=len(drops),
                seconds=seconds / len(drops),
                psnr_db=float(np.mean(psnrs)),
                drop=statistics.mean,
                drop_upper=statistics.upper,
                over_budget=(statistics.upper if is_complete else statistics.mean) - self._budget.largest_drop,
                under_floor_db=missing_db(psnrs, [floor for floor, _ in held]) if self._floor else None,
            ),
            over_memory=over_memory,
        )

    def _is_promising(
        self, drops: list[float], margins: list[float], predicted: float, time_to_beat: float | None
    ) -> bool:
        if time_to_beat is not None and predicted >= time_to_beat:
            return False
        return _lower_bound(drops) <= self._budget.largest_drop and _lower_bound(margins) <= 0

    def _generate(self, policy: Policy, batch: Sequence[Prompt]) -> tuple[list[Video], float]:
        with broadcast(self._pipeline, policy, catalog=self._catalog):
            generation = generate(self._pipeline, batch, self._settings)
        return generation.videos, generation.seconds


def interleaved(prompts: Sequence[Prompt], batch_size: int) -> list[list[Prompt]]:
    """Batches of one content class each, the classes in turns, so that every rung sees all of them."""
    by_content: dict[str, list[list[Prompt]]] = {}
    for batch in batches(prompts, batch_size):
        by_content.setdefault(batch[0].content, []).append(batch)
    columns = max(len(column) for column in by_content.values())
    return [column[row] for row in range(columns) for column in by_content.values() if row < len(column)]


def _lower_bound(values: Sequence[float]) -> float:
    """One-sided lower bound of the mean, by Student's t."""
    if len(values) < 2:
        return -float("inf")
    return float(np.mean(values) - stats.t.ppf(1 - DOUBT, len(values) - 1) * stats.sem(values))
