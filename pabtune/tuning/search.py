"""The search: Optuna looks for the policy that takes the least time inside the quality budget.

One study holds all trials; it lives in a storage that outlives a kill, and several processes may work on it. What wins on
the search's prompts is confirmed on prompts that the search never saw, measured in turns with the unaccelerated model.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline

from pabtune.catalog import CATALOG, Catalog
from pabtune.engines.engine import find_engine
from pabtune.quality.budget import Budget
from pabtune.quality.scores import Score
from pabtune.records.errors import StudyError
from pabtune.records.files import digest
from pabtune.records.interconnects import INTERCONNECTS, Interconnect
from pabtune.records.layouts import ONE_GPU, ParallelLayout
from pabtune.records.policies import Policy, Store
from pabtune.records.profiles import Profile
from pabtune.records.prompts import Prompt, as_prompts
from pabtune.records.schedules import Schedule
from pabtune.records.splits import Split, split_prompts
from pabtune.records.trials import Candidate, SearchResult
from pabtune.runtime.weights import weights_digest
from pabtune.tuning.candidates import TrialRunner, first_prompts
from pabtune.tuning.checks import check_contents, check_search
from pabtune.tuning.classifying import fit_on_split
from pabtune.tuning.confirm import FINALISTS, Confirmation, confirm
from pabtune.tuning.evaluate import score_on, warm_up
from pabtune.tuning.generation import Progress, Settings
from pabtune.tuning.limits import VideoLimits
from pabtune.tuning.references import References, describe_scheduler
from pabtune.tuning.request import (
    AUTO_FLOOR,
    ContentBy,
    SearchConfig,
    find_floor,
    request_document,
    short_name,
    study_name,
)  # fmt: skip
from pabtune.tuning.results import combine
from pabtune.tuning.shared_schedules import schedules_of
from pabtune.tuning.space import Space
from pabtune.tuning.study import OnTrial, SharedStudy
from pabtune.tuning.telling import fit_first_steps
from pabtune.tuning.videos import VideoMeter, VideoPlan, plan_videos

OnVariantTrial = Callable[[str | None, Candidate, Sequence[Candidate]], None]
"""As `OnTrial`; told first of which content class the search is, None = all."""


def search_policy(
    pipeline: DiffusionPipeline,
    profile: Profile,
    prompts: Split,
    config: SearchConfig,
    on_trial: OnTrial | None = None,
    on_schedule: Progress | None = None,
) -> SearchResult:
    """Fits schedules of whole calls, searches, then confirms.

    Args:
        pipeline: the model that was profiled.
        profile: of it.
        prompts: that trials are measured on (tune), finalists are compared on (validate), the winner is judged on (test).
        config: how.
        on_trial: told of every trial.
        on_schedule: told how many of how many schedules are fitted.

    Raises:
        ProfileError: the profile is of another model, or has too few steps.
        StudyError: the storage cannot be used, trials < 1, or one of the three parts is empty or shares a prompt.
        BudgetError: the score lacks something, fails, or returns anything but a finite number.
        MeasureError: a measure of the floor lacks something.
    """
    check_search(pipeline, profile, prompts, config)
    plan = plan_of(config, prompts, profile.asked_steps)
    prompts = replace(
        prompts,
        tune=tuple(first_prompts(prompts.tune, plan.searched)),
        validate=tuple(first_prompts(prompts.validate, plan.compared)),
    )
    tuned = prompts.tune
    config = replace(config, score=config.score or score_on(pipeline, config.budget.score))
    asked = request_document(profile, tuned, config) | {
        "weights": weights_digest(pipeline), "scheduler": describe_scheduler(pipeline)
    }  # fmt: skip
    meter = VideoMeter.in_folder(config.folder, short_name(asked), profile.asked_steps, config.videos, config.on_videos)
    settings = Settings(
        steps=profile.asked_steps, batch_size=config.batch_size, arguments=config.arguments, meter=meter
    )
    references = References(config.folder / "references", pipeline, settings, profile.made_for)
    runner = _trial_runner(pipeline, profile, tuned, settings, references, config)
    runner.score.open([prompt.prompt for prompt in (*prompts.validate, *prompts.test)])
    warm_up(pipeline, tuned[:1], settings, runner.scoring)
    limits = VideoLimits(runner, references, plan, meter, config.floor)
    schedules = schedules_of(pipeline, profile, tuned, settings, config, on_schedule, plan, limits.few_videos())
    space = _space(profile, schedules, config)
    study = open_study(profile, space, schedules, asked, config)
    if config.floor is not None:
        study.note("floor_psnr_db", limits.measure_floor())
    trials = min(config.trials, space.policies or config.trials)
    study.run(runner.try_out, trials, on_trial, limits.can_try, config.on_count)
    if not study.candidates():
        raise StudyError(
            f"{meter.total:.0f} of {config.videos} videos are generated, some by a run that was stopped, and the rest does "
            "not pay for a trial and its confirmation; a search with more videos begins anew"
        )
    candidates, count_look = study.candidates(), partial(study.count_look, content=config.content)
    confirmation = Confirmation()
    if config.team.is_leader:
        confirmation = confirm(
            pipeline, profile, candidates, prompts, config, study.name, count_look, plan.finalists, meter
        )
    best, videos = confirmation.best, round(meter.total, 1)
    return SearchResult(
        study=study.name,
        candidates=tuple(candidates),
        best=None
        if best is None
        else replace(best, provenance={**best.provenance, **_found_for(config), "videos": videos}),
        verdict=confirmation.verdict,
        evaluations=confirmation.evaluations,
        finalists=confirmation.finalists,
        judgement=confirmation.judgement,
        judged=confirmation.judged,
        videos=videos,
    )


def _space(profile: Profile, schedules: Sequence[Schedule], config: SearchConfig) -> Space:
    """The space of policies around the fitted schedules."""
    return Space(
        profile, config.content, config.stores, schedules,
        has_guidance=_has_guidance(profile, config), is_frugal=config.videos is not None, engine=config.engine,
    )  # fmt: skip


def open_study(
    profile: Profile, space: Space, schedules: Sequence[Schedule], asked: Mapping[str, Any], config: SearchConfig
) -> SharedStudy:
    """The study of what is asked for in a space; with other schedules it is another one, as trials name them by number.

    Args:
        profile: of the model.
        space: of policies.
        schedules: that it holds.
        asked: what decides about the outcome of a trial.
        config: of the search.
    """
    request = {**asked, "space": [asdict(parameter) for parameter in space.parameters()]}
    if schedules:
        request["schedules"] = digest([asdict(schedule) for schedule in schedules])
    name = study_name(profile, config.content, request)
    return SharedStudy(config.storage, name, space, config.name, config.seed, request)


def _trial_runner(
    pipeline: DiffusionPipeline,
    profile: Profile,
    prompts: Sequence[Prompt],
    settings: Settings,
    references: References,
    config: SearchConfig,
) -> TrialRunner:
    return TrialRunner(
        pipeline, profile, prompts, config.budget, settings, references, config.memory, config.layout, config.interconnect,
        config.catalog, config.floor, config.score,
    )  # fmt: skip


def plan_of(config: SearchConfig, prompts: Split, steps: int) -> VideoPlan:
    """What a search spends its videos on.

    Args:
        config: of the search.
        prompts: that there are.
        steps: denoising steps of a full run.

    Raises:
        StudyError: it may generate too few for any search.
    """
    presets = int(config.floor is not None and config.floor.preset is not None)
    counts = (len(prompts.tune), len(prompts.validate), len(prompts.test))
    return plan_videos(config.videos, *counts, presets, FINALISTS, config.warm_up_videos(steps))


def search_variants(
    pipeline: DiffusionPipeline,
    profile: Profile,
    prompts: Split,
    config: SearchConfig,
    contents: Sequence[str],
    on_trial: OnVariantTrial | None = None,
    on_schedule: Progress | None = None,
) -> SearchResult:
    """Searches for prompts of any content, then for each content class; `.best` holds a variant for each winner.

    If no policy was found for prompts of any content, those of no known class, or of one without a winner, are computed whole.
    What tells the class of a prompt, or of a run by its first steps, is fitted to the prompts to tune on and to validate with;
    its accuracy is measured on those to test with.

    Args:
        pipeline: the model that was profiled.
        profile: of it.
        prompts: as `search_policy`.
        config: how.
        contents: content classes that get a study of their own, on their own prompts.
        on_trial: told of every trial.
        on_schedule: told how many of how many schedules are fitted, for each content class.

    Raises:
        ProfileError: as `search_policy`.
        StudyError: as `search_policy`.
    """

    if config.videos is not None and config.content_by != "prompt":
        raise StudyError(
            "first steps of all prompts tell their classes, whatever number of videos is allowed; leave one out"
        )

    def search_one(config: SearchConfig) -> SearchResult:
        own = prompts if config.content is None else prompts.of_content(config.content)
        report = (
            None if on_trial is None else lambda candidate, candidates: on_trial(config.content, candidate, candidates)
        )
        return search_policy(pipeline, profile, own, config, report, on_schedule)

    if config.videos is not None:
        config = replace(config, videos=config.videos // (1 + len(contents)))
    check_contents(prompts, contents)
    general = search_one(config)
    # Variants are of one policy, which keeps all outputs in one way: as the first winner does.
    found, store, variants = general, config.store, dict[str, SearchResult]()
    for content in contents:
        store = config.team.of_leader(f"store-{content}", store if found.best is None else found.best.store)
        variants[content] = found = search_one(replace(config, content=content, store=store))
    winners = {content: result.best for content, result in variants.items() if result.best is not None}
    best = general.best
    if best is None and winners:
        best = replace(next(iter(winners.values())), rules=(), evidence={})
    videos = general.videos + sum(result.videos for result in variants.values())
    if best is not None and contents:
        best, told_with = _combined(best, winners, pipeline, prompts, contents, config)
        videos += told_with
    return replace(general, best=best, variants=variants, videos=videos)


def _combined(  # noqa: PLR0913, PLR0917, first steps depend on the model
    general: Policy,
    winners: Mapping[str, Policy],
    pipeline: DiffusionPipeline,
    prompts: Split,
    contents: Sequence[str],
    config: SearchConfig,
) -> tuple[Policy, float]:
    """One policy of all winners, with what tells their content classes; and how many videos that took."""
    if config.content_by == "prompt":
        return combine(config.name, general, winners, *fit_on_split(prompts, contents)), 0.0
    untold = combine(config.name, general, winners)
    if not config.team.is_leader or general.made_for.steps is None:
        return untold, 0.0
    meter = VideoMeter(steps=general.made_for.steps)
    settings = Settings(steps=meter.steps, batch_size=config.batch_size, arguments=config.arguments, meter=meter)
    told = fit_first_steps(pipeline, untold, prompts, contents, settings, config.catalog)
    return combine(config.name, general, winners, *told), round(meter.generated, 1)


def search(  # noqa: PLR0913, the public surface names them all
    pipeline: DiffusionPipeline,
    profile: Profile,
    prompts: Sequence[Prompt | str],
    budget: str,
    trials: int = 60,
    *,
    floor: str | Sequence[str] | None = AUTO_FLOOR,
    memory: int | None = None,
    store: Store | None = None,
    storage: str | None = None,
    folder: str | Path = "runs/search",
    name: str = "found",
    seed: int = 0,
    layout: ParallelLayout = ONE_GPU,
    interconnect: Interconnect = INTERCONNECTS["nvlink"],
    arguments: Mapping[str, Any] | None = None,
    per_content: bool = False,
    content_by: ContentBy = "prompt",
    catalog: Catalog = CATALOG,
    videos: int | None = None,
    score: Score | None = None,
    engine: str | None = None,
    on_trial: OnVariantTrial | None = None,
) -> SearchResult:
    """Searches the policy that takes the least time inside a quality budget; `.best` is the winner.

    Each prompt belongs to one of three parts, by itself: the search uses the first, compares finalists on the second, and the
    verdict is on the third (`split_prompts`).

    Args:
        pipeline: the model that was profiled.
        profile: of it.
        prompts: some of each part; with a budget of 1 point nothing is accepted on fewer than 327 of the third part.
        budget: for example `shapes>=-1.0`, `vbench-quality>=-0.5`.
        trials: finished trials that the study has in the end.
        floor: how close to the unaccelerated video the winner must be, one or several: a preset such as `pab246`, or limits
            such as `psnr>=38`, `worst-ssim>=0.9`, `lpips<=0.1`; None = no floor; `auto` = the paper's careful preset, where
            the model has the kinds of sites that it is about.
        memory: bytes that the policy may hold at most; None = any.
        store: how outputs are kept; None = exact, or with a limit of memory what is best.
        storage: journal file or Optuna storage URL; default: a journal in `folder`.
        folder: for reference videos and the journal.
        name: of the policy.
        seed: of the sampler.
        layout: how GPUs will share a video; candidates are ranked by their predicted time on these.
        interconnect: between these GPUs.
        arguments: of the pipeline's call; None = those of the profile, where these are not images but places of images.
        per_content: search a variant for each content class too, and a classifier that tells the class.
        content_by: whether it tells the class by a run's prompt or by its first steps.
        catalog: what is known of transformer classes.
        videos: videos that the search may generate in all, reference videos included, counted in full runs; None = any
            number. With few of them fewer prompts are searched with and confirmed on.
        score: the budget's, found before (`find_score`); None = it is found by its name.
        engine: that will run the policy, such as `cache-dit`: only what it can run is searched; None = pabtune.
        on_trial: told of every trial.

    Raises:
        BudgetError: the budget cannot be read.
        PolicyError: the engine is unknown.
        StudyError: too few prompts or trials, or an unusable storage.
    """
    split = split_prompts(as_prompts(prompts))
    folder = Path(folder)
    config = SearchConfig(
        budget=Budget.parse(budget),
        trials=trials,
        floor=find_floor(profile, floor),
        memory=memory,
        store=store,
        storage=storage or str(folder / "study.journal"),
        folder=folder,
        name=name,
        seed=seed,
        layout=layout,
        interconnect=interconnect,
        arguments=profile.made_for.settings.get("arguments", {}) if arguments is None else arguments,
        catalog=catalog,
        videos=videos,
        score=score,
        engine=None if engine is None else find_engine(engine),
        content_by=content_by,
    )
    contents = profile.contents if per_content else ()
    return search_variants(pipeline, profile, split, config, contents, on_trial)


def _found_for(config: SearchConfig) -> dict[str, str]:
    """What a policy's provenance says of the engine that it was searched for."""
    return {} if config.engine_name is None else {"engine": config.engine_name}


def _has_guidance(profile: Profile, config: SearchConfig) -> bool:
    """Whether guidance differences may be broadcast: there are branches that can be told, on one GPU."""
    card = config.catalog.find(profile.made_for.model or "")
    is_told = any("uncond" in branch for branch in profile.branches) or (
        card is not None and card.guidance.conditional is not None
    )
    return is_told and profile.call.samples > 1 and config.layout.branches == 1
