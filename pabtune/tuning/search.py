"""The search: Optuna looks for the policy that takes the least time inside the quality budget.

One study holds all trials; it lives in a storage that outlives a kill, and several processes may work on it. What wins on
the search's prompts is confirmed on prompts that the search never saw, measured in turns with the unaccelerated model.
"""

import os
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import optuna
from diffusers import DiffusionPipeline
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from pabtune.planning.costs.measured import Measured
from pabtune.planning.presets import PRESETS
from pabtune.planning.sharding import can_share
from pabtune.quality.budget import Budget
from pabtune.records.errors import ProfileError, StudyError
from pabtune.records.files import check_writable, digest
from pabtune.records.interconnects import INTERCONNECTS, Interconnect
from pabtune.records.layouts import ONE_GPU, ParallelLayout
from pabtune.records.policies import Store
from pabtune.records.profiles import Profile
from pabtune.records.prompts import Prompt, digest_prompts
from pabtune.runtime.targets import Target
from pabtune.tuning.candidates import Bench, Outcome
from pabtune.tuning.confirm import confirm
from pabtune.tuning.generation import Settings
from pabtune.tuning.references import References
from pabtune.tuning.request import SearchConfig, split_prompts
from pabtune.tuning.results import Candidate, SearchResult
from pabtune.tuning.space import Parameter, Space

STALE_AFTER = timedelta(minutes=10)
"""A running trial of an unknown worker is taken for dead after this."""

JOURNAL_SUFFIXES = (".log", ".journal")


OnTrial = Callable[[Candidate, Sequence[Candidate]], None]
"""Told of every trial that this process finished, and of all finished trials of the study."""


def search_policy(
    pipeline: DiffusionPipeline,
    profile: Profile,
    prompts: Sequence[Prompt],
    unseen: Sequence[Prompt],
    config: SearchConfig,
    on_trial: OnTrial | None = None,
) -> SearchResult:
    """Searches, then confirms.

    Args:
        pipeline: the model that was profiled.
        profile: of it.
        prompts: that trials are measured on.
        unseen: that the winner is confirmed on; disjoint from `prompts`.
        config: how.
        on_trial: told of every trial.

    Raises:
        ProfileError: the profile is of another model, or has too few steps.
        StudyError: the storage cannot be used, trials < 1, or prompts and unseen prompts overlap.
    """
    _check_request(pipeline, profile, prompts, unseen, config)
    space = Space(profile, config.content, config.stores)
    settings = Settings(steps=profile.steps, batch_size=config.batch_size, arguments=config.arguments)
    references = References(config.folder / "references", pipeline, settings, profile.made_for)
    rest = (config.memory, config.layout, config.interconnect)
    bench = Bench(pipeline, profile, space, prompts, config.budget, settings, references, *rest)
    study = _open_study(profile, prompts, space, config)
    if config.floor is not None:
        study.set_user_attr("floor_psnr_db", bench.set_floor(PRESETS[config.floor]))
    _run_trials(study, space, bench, config, on_trial)
    candidates = _candidates(study, space, config)
    best, verdict, evaluations = confirm(pipeline, profile, candidates, prompts, unseen, config, study.study_name)
    return SearchResult(
        study=study.study_name,
        candidates=tuple(candidates),
        best=best,
        verdict=verdict,
        evaluations=tuple(evaluations),
    )


def search(  # noqa: PLR0913, the public surface names them all
    pipeline: DiffusionPipeline,
    profile: Profile,
    prompts: Sequence[Prompt | str],
    budget: str,
    trials: int = 60,
    *,
    floor: str | None = "pab246",
    memory: int | None = None,
    store: Store | None = None,
    storage: str | None = None,
    folder: str | Path = "runs/search",
    name: str = "found",
    seed: int = 0,
    layout: ParallelLayout = ONE_GPU,
    interconnect: Interconnect = INTERCONNECTS["nvlink"],
    arguments: Mapping[str, Any] | None = None,
    on_trial: OnTrial | None = None,
) -> SearchResult:
    """Searches the policy that takes the least time inside a quality budget; `.best` is the winner.

    A third of the prompts serves the search, the rest confirms the winner.

    Args:
        pipeline: the model that was profiled.
        profile: of it.
        prompts: at least 12.
        budget: for example `shapes>=-1.0`.
        trials: finished trials that the study shall have in the end.
        floor: preset that the winner must be as close to the unaccelerated video as; None = no floor.
        memory: bytes that the policy may hold at most; None = any.
        store: how outputs are kept; None = exact, or with a limit of memory what is best.
        storage: journal file or Optuna storage URL; default: a journal in `folder`.
        folder: for reference videos and the journal.
        name: of the policy.
        seed: of the sampler.
        layout: how GPUs will share a video; candidates are ranked by their predicted time on these.
        interconnect: between these GPUs.
        arguments: of the pipeline's call; None = those of the profile, where these are not images but places of images.
        on_trial: told of every trial.

    Raises:
        BudgetError: the budget cannot be read.
        StudyError: too few prompts or trials, or an unusable storage.
    """
    asked = [Prompt(prompt=each, seed=i) if isinstance(each, str) else each for i, each in enumerate(prompts)]
    searched, unseen = split_prompts(asked)
    folder = Path(folder)
    config = SearchConfig(
        budget=Budget.parse(budget),
        trials=trials,
        floor=floor,
        memory=memory,
        store=store,
        storage=storage or str(folder / "study.journal"),
        folder=folder,
        name=name,
        seed=seed,
        layout=layout,
        interconnect=interconnect,
        arguments=profile.made_for.settings.get("arguments", {}) if arguments is None else arguments,
    )
    return search_policy(pipeline, profile, searched, unseen, config, on_trial)


def _check_request(
    pipeline: DiffusionPipeline,
    profile: Profile,
    prompts: Sequence[Prompt],
    unseen: Sequence[Prompt],
    config: SearchConfig,
) -> None:
    if config.trials < 1:
        raise StudyError(f"a search needs at least 1 trial, but got {config.trials}")
    if config.floor is not None and config.floor not in PRESETS:
        raise StudyError(f"unknown preset {config.floor!r} as fidelity floor; presets: {', '.join(PRESETS)}")
    _check_layout(profile, config)
    if config.memory is not None and not all(profile.bytes_kept(store) for store in config.stores):
        raise ProfileError(f"profile {profile.name!r} holds no sizes to limit memory by; profile again")
    target = Target.of(pipeline)
    if target.fingerprint() != profile.made_for.fingerprint:
        raise ProfileError(
            f"profile {profile.name!r} is of another model than the one given (its configuration or sites differ); "
            "profile this one first"
        )
    if not prompts or not unseen:
        raise StudyError("a search needs prompts to search with and unseen prompts to confirm with")
    shared = {prompt.prompt for prompt in prompts} & {prompt.prompt for prompt in unseen}
    if shared:
        raise StudyError(f"the prompt {shared.pop()!r} is both searched with and confirmed with")


def _check_layout(profile: Profile, config: SearchConfig) -> None:
    if config.layout.gpus > 1 and not profile.site_bytes:
        raise ProfileError(f"profile {profile.name!r} holds no sizes to tell what is exchanged; profile again")
    measured = Measured.of(profile, config.layout.gpus)
    if config.layout.axis not in (None, *measured.axes):
        raise ProfileError(
            f"{profile.made_for.model} can be split along {', '.join(measured.axes)}, not along {config.layout.axis}"
        )
    if not can_share(config.layout, measured.axes, measured.frames):
        raise ProfileError(
            f"{measured.frames} frames over {config.layout.sequence} GPUs leave one to each, which this model does not "
            "take"
        )
    if config.layout.branches > measured.branches:
        raise ProfileError(f"profile {profile.name!r} has no guidance branches that GPUs could share")


def _open_study(profile: Profile, prompts: Sequence[Prompt], space: Space, config: SearchConfig) -> optuna.Study:
    """The study of exactly this request: the same command finds it again, another one does not."""
    request = {
        "profile": profile.digest,
        "prompts": digest_prompts(prompts),
        "budget": str(config.budget),
        "floor": config.floor,
        "content": config.content,
        "arguments": dict(config.arguments),
        "batch_size": config.batch_size,
        **(config.parallel_document() if config.layout.gpus > 1 else {}),
        **({"memory": config.memory} if config.memory is not None else {}),
        **({"store": config.store} if config.store is not None else {}),
        "space": [asdict(parameter) for parameter in space.parameters()],
    }
    suffix = f"-{config.content}" if config.content else ""
    name = f"{profile.name}{suffix}-{digest(request).removeprefix('sha256:')[:8]}"
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = _open_storage(config.storage)
    try:
        study = optuna.create_study(study_name=name, storage=storage, direction="minimize", load_if_exists=True)
    except Exception as error:  # noqa: BLE001, every database driver has errors of its own
        raise StudyError(f"cannot use the storage {config.storage!r}: {str(error).splitlines()[0]}") from error
    study.set_user_attr("request", request)
    _revive(study)
    is_first = not study.get_trials(deepcopy=False)
    # Who comes later, or beside, must not draw the same again.
    seed = config.seed if is_first else config.seed + 1 + os.getpid()
    study.sampler = optuna.samplers.TPESampler(
        n_startup_trials=12, multivariate=True, group=False, constant_liar=True, seed=seed
    )
    if is_first:
        for origin, values in space.first_trials():
            study.enqueue_trial(values, user_attrs={"origin": origin}, skip_if_exists=True)
    return study


def _open_storage(storage: str) -> optuna.storages.BaseStorage | str:
    if "://" in storage:
        if storage.startswith("sqlite:///"):
            check_writable(Path(storage.removeprefix("sqlite:///")))
        return storage
    if not storage.endswith(JOURNAL_SUFFIXES):
        raise StudyError(
            f"the storage {storage!r} is neither a URL (sqlite:///FILE, postgresql://…) nor a journal file (*.journal)"
        )
    check_writable(Path(storage))
    return optuna.storages.JournalStorage(JournalFileBackend(storage))


def _run_trials(
    study: optuna.Study, space: Space, bench: Bench, config: SearchConfig, on_trial: OnTrial | None
) -> None:
    parameters = space.parameters()
    while _count_open_and_done(study) < config.trials:
        trial = study.ask(fixed_distributions={parameter.name: _distribution(parameter) for parameter in parameters})
        trial.set_user_attr("worker", f"{socket.gethostname()}:{os.getpid()}")
        policy = space.policy(trial.params, f"{config.name}-trial-{trial.number}")
        finished = [candidate for candidate in _candidates(study, space, config) if candidate.outcome.is_feasible]
        to_beat = min((candidate.outcome.predicted_time for candidate in finished), default=None)
        is_first = "origin" in trial.user_attrs
        outcome = bench.try_out(policy, None if is_first else to_beat)
        trial.set_user_attr("outcome", outcome.to_document())
        trial.set_constraint("over_budget", outcome.over_budget)
        trial.set_constraint("under_floor_db", outcome.under_floor_db)
        trial.set_constraint("over_memory", outcome.over_memory)
        study.tell(trial, outcome.predicted_time)
        if on_trial is not None:
            candidates = _candidates(study, space, config)
            own = next(candidate for candidate in candidates if candidate.number == trial.number)
            on_trial(own, candidates)


def _count_open_and_done(study: optuna.Study) -> int:
    """Trials that are finished or on their way in some process."""
    states = (TrialState.COMPLETE, TrialState.RUNNING)
    return len(study.get_trials(deepcopy=False, states=states))


def _distribution(parameter: Parameter) -> BaseDistribution:
    if parameter.choices:
        return CategoricalDistribution(parameter.choices)
    return IntDistribution(parameter.low, parameter.high)


def _candidates(study: optuna.Study, space: Space, config: SearchConfig) -> list[Candidate]:
    candidates = []
    for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        candidates.append(
            Candidate(
                number=trial.number,
                origin=trial.user_attrs.get("origin", "sampler"),
                policy=space.policy(trial.params, f"{config.name}-trial-{trial.number}"),
                parameters=dict(trial.params),
                outcome=Outcome(**trial.user_attrs["outcome"]),
            )
        )
    return candidates


def _revive(study: optuna.Study) -> None:
    """Gives up the trials of workers that are dead, and queues their parameters again."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        host, _, process = trial.user_attrs.get("worker", "").rpartition(":")
        if host == socket.gethostname():
            is_dead = not _is_alive(int(process))
        else:
            began = trial.datetime_start or datetime.min
            is_dead = not host and datetime.now() - began > STALE_AFTER
        if is_dead:
            study.tell(trial.number, state=TrialState.FAIL)
            if trial.params:
                origin = {key: value for key, value in trial.user_attrs.items() if key == "origin"}
                study.enqueue_trial(dict(trial.params), user_attrs=origin)


def _is_alive(process: int) -> bool:
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
