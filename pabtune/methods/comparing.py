"""Comparing methods on one model: same prompts, seeds and clock for all.

Each method is calibrated, tuned on the calibration prompts (for each share of the compute, and of the time, the setting that
is closest to the full run there), and judged on the unseen ones, in turns with the full run. What is finished is kept in a
folder.
"""

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from diffusers import DiffusionPipeline

from pabtune.catalog import CATALOG, Catalog
from pabtune.methods.keeping import Calibrated, ComparisonFolder
from pabtune.methods.method import Method, Recordings
from pabtune.quality.scores import NO_SCORE, find_score
from pabtune.records.comparisons import (
    TIME_TOLERANCE,
    CalibrationCost,
    ComparedSetting,
    MethodsComparison,
    ShareOf,
    mean,
)
from pabtune.records.errors import ModelError, PolicyError
from pabtune.records.evaluations import Evaluation
from pabtune.records.policies import Policy
from pabtune.records.prompts import Prompt
from pabtune.runtime.flops import KnownCalls
from pabtune.runtime.targets import Target
from pabtune.tuning.evaluate import evaluate
from pabtune.tuning.generation import BATCH_SIZE, Settings, batches
from pabtune.tuning.judging import measured_on
from pabtune.tuning.provenance import versions
from pabtune.tuning.videos import VideoMeter

SHARES = (0.63, 0.5, 0.4, 0.33, 0.25)
"""Of the compute and of the measured time, at which methods are compared."""

TOLERANCE = 0.03
"""By which a setting may compute more than a share: steps are whole (8 of 30 for a quarter), and what is outside of blocks
computes too (1 % of `shapes`)."""


class Noted(Protocol):
    """Told how many parts of how many are done, and what is being done."""

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """Notes it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareConfig:
    """How methods are compared.

    Attributes:
        steps: denoising steps of the full run.
        grids: for each method by name, the settings of its knob that are tried; methods without one try their own.
        shares: of the compute and of the time, for which settings are chosen.
        batch_size: prompts in one call of the pipeline.
        arguments: further arguments of the pipeline's call.
        score: name of the absolute score.
        folder: for what is kept.
    """

    steps: int
    grids: Mapping[str, Sequence[float]]
    shares: Sequence[float] = SHARES
    batch_size: int = BATCH_SIZE
    arguments: Mapping[str, Any]
    score: str
    folder: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """A setting that is to be judged.

    Attributes:
        setting: of the method's knob.
        share: that it was chosen for; None = the method reaches none, this is its cheapest.
        share_of: what the share is of.
        psnr_db: mean on the calibration prompts.
    """

    setting: float
    share: float | None
    share_of: ShareOf = "compute"
    psnr_db: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """A method that is ready to be judged.

    Attributes:
        calibrated: what it measured.
        chosen: the settings that were chosen.
    """

    calibrated: Calibrated
    chosen: Sequence[Chosen]


def choose(evaluations: Mapping[float, Evaluation], shares: Sequence[float]) -> list[Chosen]:
    """For each share the setting that is closest to the full run of those that compute, and of those that take, no more.

    Args:
        evaluations: on the calibration prompts, by setting.
        shares: of the full run's compute and time.

    Returns:
        By compute, then by time. A method whose cheapest setting is above all shares gets that one, without a share.
    """
    psnrs = {setting: mean(evaluation.psnr_db) for setting, evaluation in evaluations.items()}
    compute = {setting: evaluation.compute_fraction for setting, evaluation in evaluations.items()}
    times = {setting: each.latency_s / each.baseline_latency_s for setting, each in evaluations.items()}
    spent: dict[ShareOf, tuple[Mapping[float, float], float]] = {
        "compute": (compute, TOLERANCE),
        "time": (times, TIME_TOLERANCE),
    }
    chosen = []
    for share_of, (spent_by, allowed) in spent.items():
        for share in shares:
            within = [each for each in evaluations if spent_by[each] <= share + allowed]
            if within:
                best = max(within, key=psnrs.__getitem__)
                chosen.append(Chosen(setting=best, share=share, share_of=share_of, psnr_db=psnrs[best]))
    if all(each.share_of == "time" for each in chosen):
        cheapest = min(evaluations, key=compute.__getitem__)
        chosen.insert(0, Chosen(setting=cheapest, share=None, psnr_db=psnrs[cheapest]))
    return chosen


def compare(
    pipeline: DiffusionPipeline,
    methods: Sequence[Method],
    config: CompareConfig,
    tuned_on: Sequence[Prompt],
    unseen: Sequence[Prompt],
    *,
    model: str,
    catalog: Catalog = CATALOG,
    progress: Noted | None = None,
) -> MethodsComparison:
    """Calibrates, tunes and judges each method.

    Args:
        pipeline: the model.
        methods: the methods.
        config: how they are compared.
        tuned_on: calibration prompts.
        unseen: prompts that methods are judged on.
        model: name of the model, for the record.
        catalog: what is known of transformer classes.
        progress: told how many methods of how many are done, and what is being done.

    Raises:
        BudgetError: the score is unknown, or fails.
        PromptError: the model does not understand a prompt.
    """
    if config.score != NO_SCORE:
        find_score(config.score)
    unfit: dict[str, str] = {}
    settings: list[ComparedSetting] = []
    target, known_calls = Target.of(pipeline, catalog), KnownCalls()
    for done, method in enumerate(methods):

        def note(what: str, done: int = done, name: str = method.name) -> None:
            if progress is not None:
                progress(done, len(methods), f": {name}, {what}")

        misfit = method.misfit(target)
        if misfit is not None:
            unfit[method.name] = misfit
            continue
        turn = MethodTurn(pipeline, method, config, catalog, note, known_calls)
        try:
            settings += turn.judge(turn.tune(tuned_on), unseen)
        except (ModelError, PolicyError) as error:  # only running it tells that this model cannot carry it
            unfit[method.name] = str(error)
    return MethodsComparison(
        model=model,
        steps=config.steps,
        prompts=len(unseen),
        calibration_prompts=len(tuned_on),
        settings=settings,
        unfit=unfit,
        environment={**versions(), "device": measured_on(pipeline)["device"]},
    )


class MethodTurn:
    """One method on one model.

    Args:
        pipeline: the model.
        method: the method.
        config: how methods are compared.
        catalog: what is known of transformer classes.
        note: told what is being done.
        known_calls: FLOPs of the model's calls, counted once for all methods.
    """

    def __init__(
        self,
        pipeline: DiffusionPipeline,
        method: Method,
        config: CompareConfig,
        catalog: Catalog,
        note: Callable[[str], None],
        known_calls: KnownCalls,
    ) -> None:
        self._known_calls = known_calls
        self._pipeline, self._method, self._config, self._catalog, self._note = pipeline, method, config, catalog, note
        self._settings = Settings(steps=config.steps, batch_size=config.batch_size, arguments=config.arguments)
        self._folder = ComparisonFolder(config.folder, pipeline, self._settings, config.score)

    def tune(self, prompts: Sequence[Prompt]) -> Tuned:
        """Calibrates the method, and chooses its settings, on the calibration prompts."""
        grid = self._config.grids.get(self._method.name, self._method.settings)
        calibrated = self._folder.calibration(self._method.name, grid, prompts)
        if calibrated is not None and self._method.needs == "nothing":
            # It costs nothing to ask again, and its files may be others than the last time.
            fresh = self._calibrate(grid, prompts)
            calibrated = calibrated if fresh.values == calibrated.values else None
        if calibrated is None:
            self._note("calibration")
            calibrated = self._calibrate(grid, prompts)
            self._folder.keep_calibration(self._method.name, grid, prompts, calibrated)
        self._note("tuning")
        evaluations = self._evaluations(calibrated, grid, prompts)
        spent_s = sum(evaluation.latency_s for evaluation in evaluations.values()) * len(prompts)
        cost = replace(
            calibrated.cost,
            videos=calibrated.cost.videos + self._full_runs(calibrated, evaluations) * len(prompts),
            seconds=calibrated.cost.seconds + spent_s,
        )
        chosen = choose(evaluations, self._config.shares)
        return Tuned(calibrated=replace(calibrated, cost=cost), chosen=chosen)

    def judge(self, tuned: Tuned, prompts: Sequence[Prompt]) -> list[ComparedSetting]:
        """Evaluates the settings that were chosen on the unseen prompts."""
        self._note("unseen prompts")
        grid = list(dict.fromkeys(each.setting for each in tuned.chosen))
        evaluations = self._evaluations(tuned.calibrated, grid, prompts)
        return [
            ComparedSetting(
                method=self._method.name,
                knob=self._method.knob.name,
                setting=each.setting,
                share=each.share,
                share_of=each.share_of,
                tuned_psnr_db=each.psnr_db,
                evaluation=evaluations[each.setting],
                calibration=tuned.calibrated.cost,
            )
            for each in tuned.chosen
        ]

    def _full_runs(self, calibrated: Calibrated, settings: Iterable[float]) -> float:
        """Runs at some settings, counted in full runs: one of fewer steps counts by its share of them."""
        policies = [self._method.at(each, calibrated.values, self._config.steps) for each in settings]
        return sum(self._settings.under(policy).steps / self._config.steps for policy in policies)

    def _calibrate(self, grid: Sequence[float], prompts: Sequence[Prompt]) -> Calibrated:
        """Lets the method measure what it needs, and counts what that takes."""
        meter = VideoMeter(steps=self._config.steps)
        recordings = Recordings(
            pipeline=self._pipeline,
            batches=list(batches(prompts, self._config.batch_size)),
            settings=replace(self._settings, meter=meter),
            catalog=self._catalog,
        )
        began = time.perf_counter()
        values = self._method.calibrate(recordings, grid)
        seconds = time.perf_counter() - began
        size = recordings.bytes + (0 if values is None else len(json.dumps(values)))
        return Calibrated(values=values, cost=CalibrationCost(videos=meter.generated, seconds=seconds, bytes=size))

    def _evaluations(
        self, calibrated: Calibrated, grid: Sequence[float], prompts: Sequence[Prompt]
    ) -> dict[float, Evaluation]:
        """Evaluations at some settings; those that are not kept yet are made, in turns with the full run.

        Settings that have no policy, such as so few steps that gaps would be too long, are left out.

        Raises:
            PolicyError: none of them has one.
        """
        name, values = self._method.name, calibrated.values
        known = {each: self._folder.evaluation(name, each, values, prompts) for each in grid}
        missing = [each for each, evaluation in known.items() if evaluation is None]
        policies, refusal = dict[float, Policy](), None
        for each in missing:
            try:
                policies[each] = self._method.at(each, values, self._config.steps)
            except PolicyError as error:
                refusal = error
        if refusal is not None and not policies and len(missing) == len(known):
            raise refusal
        if policies:
            found = evaluate(
                self._pipeline,
                list(policies.values()),
                prompts,
                self._config.steps,
                score=self._config.score,
                batch_size=self._config.batch_size,
                arguments=self._config.arguments,
                catalog=self._catalog,
                known_calls=self._known_calls,
            )
            for setting, evaluation in zip(policies, found, strict=True):
                self._folder.keep_evaluation(name, setting, values, prompts, evaluation)
                known[setting] = evaluation
        return {setting: evaluation for setting, evaluation in known.items() if evaluation is not None}
