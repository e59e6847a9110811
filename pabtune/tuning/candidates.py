"""Trying a policy out, cheaply first: few prompts, and more while it is still promising."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from math import inf

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
from pabtune.planning.schedules import NoiseSchedule
from pabtune.planning.units import units_of
from pabtune.quality.budget import LEAST_JUDGED_PROMPTS, Budget, drop_statistics
from pabtune.quality.floors import PSNR, Floor
from pabtune.quality.measures import EVERY
from pabtune.quality.scores import Score, find_score
from pabtune.records.interconnects import INTERCONNECTS, Interconnect
from pabtune.records.layouts import ONE_GPU, ParallelLayout
from pabtune.records.policies import Policy, Store
from pabtune.records.profiles import Profile
from pabtune.records.prompts import Prompt
from pabtune.records.rules import Rule
from pabtune.records.sites import Site
from pabtune.records.trials import Measurement, Outcome
from pabtune.runtime.engine import broadcast
from pabtune.tuning.generation import Generation, Settings, frame_rate, generate
from pabtune.tuning.references import References

RUNG_SHARES = (0.25, 0.5, 1.0)
"""Shares of the prompts after which a candidate must still be promising."""

DOUBT = 0.05
"""One-sided error with which a candidate is given up early."""


Identity = tuple[tuple[Rule, ...], Store]
"""What decides about a policy's videos."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What a video of a candidate shows.

    Attributes:
        drop: of the score, in points.
        figures: against the unaccelerated video: PSNR in dB, and those of the floor, by the name of the measure.
        seconds: that it took.
    """

    drop: float
    figures: Mapping[str, float]
    seconds: float


class TrialRunner:
    """Tries policies out on fixed prompts.

    Args:
        pipeline: the model.
        profile: of that model; gives predicted times.
        prompts: of the search.
        budget: on the score.
        settings: how videos are generated.
        references: of the unaccelerated videos.
        memory: bytes that a candidate may hold at most; None = any.
        layout: how GPUs will share a video.
        interconnect: between these GPUs.
        catalog: what is known of transformer classes.
        floor: how close candidates must be; None = no floor. One with a preset is measured first (`measure_floor`).
        score: the budget's; None = found by its name.

    Raises:
        BudgetError: the score lacks something.
        MeasureError: a measure of the floor does.
    """

    def __init__(  # noqa: PLR0913, PLR0917, most are needed and have no default
        self,
        pipeline: DiffusionPipeline,
        profile: Profile,
        prompts: Sequence[Prompt],
        budget: Budget,
        settings: Settings,
        references: References,
        memory: int | None = None,
        layout: ParallelLayout = ONE_GPU,
        interconnect: Interconnect = INTERCONNECTS["nvlink"],
        catalog: Catalog = CATALOG,
        floor: Floor | None = None,
        score: Score | None = None,
    ) -> None:
        self._memory, self._layout, self._interconnect, self._catalog = memory, layout, interconnect, catalog
        self._pipeline, self._profile = pipeline, profile
        self._budget, self._settings, self._references = budget, settings, references
        self._schedule = NoiseSchedule(steps=profile.steps, sigmas=profile.made_for.sigmas)
        self._batches = interleaved(prompts, settings.batch_size)
        self._known: dict[Identity, dict[Prompt, Shown]] = {}
        self._count = len(prompts)
        self._baseline_scores: dict[Prompt, float] = {}
        self._floor = floor
        self._preset_psnrs: dict[Prompt, float] = {}
        self._measures = {name: EVERY[name].load() for name in (PSNR, *(floor or Floor()).measures)}
        self.score = score or find_score(budget.score)
        self.scoring = self.score.open([prompt.prompt for prompt in prompts], frame_rate(pipeline, settings.arguments))

    def measure_floor(self) -> float | None:
        """Generates the videos of the floor's preset; returns their mean PSNR in dB, None where it has none."""
        if self._floor is None or self._floor.preset is None:
            return None
        preset = PRESETS[self._floor.preset]
        for batch in self._batches:
            self.remember(preset, batch, self._generate(preset, batch))
        self._preset_psnrs = {prompt: shown.figures[PSNR] for prompt, shown in self._known[_identity(preset)].items()}
        return float(np.mean(list(self._preset_psnrs.values())))

    def remember(self, policy: Policy, batch: Sequence[Prompt], generation: Generation) -> None:
        """Notes what videos of a policy show, which were generated for another reason: its trial need not generate them."""
        self._known.setdefault(_identity(policy), {}).update(self._shown(batch, generation))

    def forget(self, policy: Policy) -> None:
        """Drops what was remembered of a policy."""
        self._known.pop(_identity(policy), None)

    def knows(self, policy: Policy) -> bool:
        """Whether the trial of a policy needs no more videos."""
        return len(self._known.get(_identity(policy), ())) == self._count

    def shortfall(self, policy: Policy) -> float:
        """What a remembered policy lacks on the prompts that are known of it: dB to the floor; infinite over the budget.

        0 or less = it is inside of both.
        """
        prompts, shown = zip(*self._known[_identity(policy)].items(), strict=True)
        measured = self._measurement(prompts, shown)
        if measured.over_budget > 0:
            return inf
        return -inf if measured.under_floor_db is None else measured.under_floor_db

    def predicted_time(self, policy: Policy) -> float:
        """Predicted time in the transformer over that of the full run, both on as many GPUs as will share a video."""
        measured = Measured.of(self._profile, self._layout.gpus, self._catalog)
        seconds, full_seconds = (
            parallel_seconds(
                resolve(each, self._sites(each), self._schedule).inside_blocks(),
                measured,
                self._layout,
                self._interconnect,
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
        plain = bytes_of_sites(self._profile, mask.sites, "exact")
        held = held_bytes(mask, sizes, policy.store, self._profile.call.per_step, plain).max()
        return float(held) * self._settings.batch_size / self._memory - 1

    def _sites(self, policy: Policy) -> tuple[Site, ...]:
        return (*self._profile.sites, *units_of(policy, self._profile.sites))

    def _mask(self, policy: Policy) -> ComputeMask:
        mask = resolve(policy, self._sites(policy), self._schedule)
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
        tried: dict[Prompt, Shown] = {}
        rungs = [max(1, round(share * self._count)) for share in RUNG_SHARES]
        for batch in self._batches:
            known = self._known.get(_identity(policy), {})
            if not set(batch) <= set(known):
                self.remember(policy, batch, self._generate(policy, batch))
                known = self._known[_identity(policy)]
            tried |= {prompt: known[prompt] for prompt in batch}
            if len(tried) >= rungs[0]:
                rungs = [rung for rung in rungs if rung > len(tried)]
                if rungs and not self._is_promising(tried, predicted, time_to_beat):
                    break
        return Outcome(
            status="complete" if len(tried) == self._count else "stopped early",
            predicted_time=predicted,
            compute_fraction=fraction,
            measured=self._measurement(list(tried), list(tried.values())),
            over_memory=over_memory,
        )

    def _shown(self, batch: Sequence[Prompt], generation: Generation) -> dict[Prompt, Shown]:
        """What each video of a batch shows beside its reference."""
        references = self._references.videos(batch)
        new = {prompt: at for at, prompt in enumerate(batch) if prompt not in self._baseline_scores}
        videos = [*(references[at] for at in new.values()), *generation.videos]
        points = self.scoring(videos, [prompt.prompt for prompt in (*new, *batch)])
        self._baseline_scores |= dict(zip(new, points, strict=False))
        return {
            prompt: Shown(
                drop=self._baseline_scores[prompt] - after,
                figures={name: compare(video, reference) for name, compare in self._measures.items()},
                seconds=generation.seconds / len(batch),
            )
            for prompt, after, video, reference in zip(
                batch, points[len(new) :], generation.videos, references, strict=True
            )
        }

    def _measurement(self, prompts: Sequence[Prompt], shown: Sequence[Shown]) -> Measurement:
        """What videos of these prompts show together."""
        statistics, figures = drop_statistics([each.drop for each in shown]), self._figures(shown)
        is_judged = len(prompts) == self._count and len(prompts) >= LEAST_JUDGED_PROMPTS
        return Measurement(
            prompts=len(prompts),
            seconds=float(np.mean([each.seconds for each in shown])),
            psnr_db=float(np.mean(figures[PSNR])),
            drop=statistics.mean,
            drop_upper=statistics.upper,
            over_budget=(statistics.upper if is_judged else statistics.mean) - self._budget.largest_drop,
            under_floor_db=None if self._floor is None else self._floor.missing_db(figures, self._of_preset(prompts)),
        )

    def _figures(self, shown: Sequence[Shown]) -> dict[str, list[float]]:
        """Figures of each video, by the name of the measure."""
        return {name: [each.figures[name] for each in shown] for name in self._measures}

    def _of_preset(self, prompts: Sequence[Prompt]) -> list[float]:
        """PSNR of the floor's preset; empty if it has none."""
        return [self._preset_psnrs[prompt] for prompt in prompts] if self._preset_psnrs else []

    def _is_promising(self, tried: Mapping[Prompt, Shown], predicted: float, time_to_beat: float | None) -> bool:
        figures, floor = self._figures(list(tried.values())), self._floor or Floor()
        if (time_to_beat is not None and predicted >= time_to_beat) or floor.is_lost(figures):
            return False
        margins = floor.margins(figures, self._of_preset(list(tried)))
        if not self.score.is_of_all:
            margins.append([each.drop - self._budget.largest_drop for each in tried.values()])
        return all(_lower_bound(each) <= 0 for each in margins)

    def _generate(self, policy: Policy, batch: Sequence[Prompt]) -> Generation:
        with broadcast(self._pipeline, policy, catalog=self._catalog, any_steps=True):
            return generate(self._pipeline, batch, self._settings)


def interleaved(prompts: Sequence[Prompt], batch_size: int) -> list[list[Prompt]]:
    """Batches of prompts with the content classes in turns, so that every rung, and a few prompts, are of all of them."""
    by_content: dict[str, list[Prompt]] = {}
    for prompt in prompts:
        by_content.setdefault(prompt.content, []).append(prompt)
    ordered = [prompt for row in zip_longest(*by_content.values()) for prompt in row if prompt is not None]
    return [ordered[start : start + batch_size] for start in range(0, len(ordered), batch_size)]


def first_prompts(prompts: Sequence[Prompt], count: int) -> list[Prompt]:
    """So many prompts, the content classes in turns; all of them in their order if there are no more."""
    return list(prompts) if count >= len(prompts) else interleaved(prompts, count)[0]


def _identity(policy: Policy) -> Identity:
    return policy.rules, policy.store


def _lower_bound(values: Sequence[float]) -> float:
    """One-sided lower bound of the mean, by Student's t."""
    if len(values) < 2:
        return -float("inf")
    return float(np.mean(values) - stats.t.ppf(1 - DOUBT, len(values) - 1) * stats.sem(values))
